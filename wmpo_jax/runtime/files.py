"""Files that are written whole or not at all, and read with an error that says what to do."""

import contextlib
import fcntl
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np

from wmpo_jax.runtime.errors import UserError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A temporary neighbor of `path` that takes its name once it is safely on the disk."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror}.") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder that appears as `target` when everything is in it (see `claimed`)."""
    with claimed(target) as temporary:
        temporary.mkdir()
        yield temporary


@contextlib.contextmanager
def claimed(target: Path) -> Iterator[Path]:
    """A hidden neighbor that takes the name `target` at the end, or vanishes after an error.

    Raises:
      UserError: there is something at `target`, another process is about to write it, or its
        place cannot be written.
    """
    _must_be_free(target)
    temporary = target.parent / f".{target.name}.tmp"
    new_parents = [parent for parent in target.parents if not os.path.exists(parent)]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target):
            _remove(temporary)  # of a process that was killed
            try:
                yield temporary
                os.replace(temporary, target)
            finally:
                _remove(temporary)
    except OSError as error:
        raise UserError(f"{target} could not be written: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):  # not empty: all went well
            for parent in new_parents:
                parent.rmdir()


def _must_be_free(target: Path) -> None:
    # os.path.exists: pathlib's raises where it may not look.
    if os.path.exists(target):
        raise UserError(f"{target} exists already: give another --target or delete it.")


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Keeps a second writer of `target` out; the lock ends with this process."""
    path = target.parent / f".{target.name}.lock"
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"Another process is writing {target}: wait for it or give another --target."
            ) from error
        try:
            _must_be_free(target)  # that process may have ended just now
            yield
        finally:
            path.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.unlink()


def atomic_write(path: Path, content: bytes) -> None:
    """After a kill or a power cut `path` holds the old content or the new, never half.

    On several hosts only process 0 writes; the others return at once.

    Raises:
      UserError: the disk is full or the place is not writable.
    """
    if jax.process_index() == 0:
        with replacing(path) as file:
            file.write(content)


def save_json(path: Path, value: Any) -> None:
    """`atomic_write` of `value` as JSON."""
    atomic_write(path, (json.dumps(value, indent=1) + "\n").encode())


def load_json(path: Path) -> Any:
    """Reads a JSON file; UserError when it is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: run the stage that writes it first.") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): delete it and run again.") from error


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes named arrays (anything `np.asarray` takes) as one uncompressed .npz, atomically."""
    if jax.process_index() == 0:
        with replacing(path) as file:
            leaves = {name: np.asarray(value) for name, value in arrays.items()}
            np.savez(file, allow_pickle=False, **leaves)


def load_arrays(path: Path, stage: str) -> dict[str, np.ndarray]:
    """Reads the whole of an .npz; `stage` is the stage that writes it, for the error message.

    Raises:
      UserError: the file is missing, truncated or damaged (zip checksums are verified).
    """
    mend = f"delete stages/{stage}.json in the workdir and run again, stage {stage} writes it"
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: {mend}.") from error
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}): {mend}.") from error
