"""Files that are written whole or not at all, and read with an error that says what to do."""

import contextlib
import fcntl
import json
import math
import os
import shutil
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np

from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.progress import warn

_CHECKSUM = "crc32"
_NAMES = "_names"


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
        with contextlib.suppress(OSError):  # its place is no folder, as was said
            temporary.unlink()


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
      UserError: there is something at `target`, another process is making it, or its place cannot
        be written.
    """
    _check_absent(target)
    new_parents = [parent for parent in target.parents if not os.path.exists(parent)]
    temporary = target.parent / f".{target.name}.tmp"
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


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Keeps a second process from making `target`; refuses when it is there."""
    lock = target.parent / f".{target.name}.lock"
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"Another process is making {target}: wait for it or give another --target."
            ) from error
        try:
            _check_absent(target)  # another process may have made it meanwhile
            yield
        finally:
            lock.unlink(missing_ok=True)


def _check_absent(target: Path) -> None:
    # os.path.exists: pathlib's raises where it may not look.
    if os.path.exists(target):
        raise UserError(f"{target} exists already: give another --target or delete it.")


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
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path} could not be read as JSON ({reason}): replace it by an intact copy."
        ) from error


def save_record(path: Path, record: Mapping[str, Any]) -> None:
    """`save_json` of a non-empty record of finite numbers, with its checksum beside its fields.

    Raises:
      UserError: a number is not finite, with its name.
    """
    bad = _not_finite(record)
    if bad:
        raise UserError(f"{path} was not written: {bad} is not a finite number.")
    save_json(path, {**record, _CHECKSUM: _crc_of(record)})


def load_record(path: Path, stage: str, names: Collection[str] = ()) -> dict[str, Any]:
    """Reads what `save_record` wrote, without the checksum.

    Args:
      stage: the stage that writes the file, for the error message.
      names: fields that it must have.

    Raises:
      UserError: missing, damaged, of an older version, or with a number that is not finite.
    """
    advice = _repeat(stage)
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: {advice}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): {advice}.") from error
    if not isinstance(content, dict) or _CHECKSUM not in content:
        raise UserError(f"{path} has no checksum, so it is damaged or too old: {advice}.")
    expected = content.pop(_CHECKSUM)
    lacking = [name for name in names if name not in content]
    bad = _not_finite(content) or (f"the field {lacking[0]}" if lacking else "")
    if expected != _crc_of(content) or bad:
        reason = f"see {bad}" if bad else "it differs from its checksum"
        raise UserError(f"{path} is damaged ({reason}): {advice}.")
    return content


def _crc_of(record: Mapping[str, Any]) -> int:
    as_read = json.loads(json.dumps(record))  # keys are strings and tuples lists
    return zlib.crc32(json.dumps(as_read, sort_keys=True).encode())


def _not_finite(value: Any, name: str = "") -> str:
    """The name of the first number in nested JSON values that is NaN or infinite, "" for none."""
    if isinstance(value, Mapping):
        parts = [(f"{name}.{key}".lstrip("."), inner) for key, inner in value.items()]
    elif isinstance(value, list | tuple):
        parts = [(f"{name}[{number}]", inner) for number, inner in enumerate(value)]
    else:
        return name if isinstance(value, float) and not math.isfinite(value) else ""
    return next(filter(None, (_not_finite(inner, path) for path, inner in parts)), "")


def load_lines(path: Path, names: Collection[str], advice: str) -> list[dict[str, Any]]:
    """Reads JSON lines, [] when there is no file; a torn last line is left out with a message.

    Args:
      names: fields that every line must have.
      advice: what to do when another line is damaged, for the error message.

    Raises:
      UserError: a line that is not the last one is damaged, or the file cannot be read.
    """
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    except OSError as error:
        raise UserError(f"{path} could not be read ({error.strerror}): {advice}.") from error
    end = lines.pop()  # a line that was written whole has its end
    entries = [_entry(line, names) for line in lines]
    torn = bool(end) or (bool(entries) and entries[-1] is None)
    if entries and entries[-1] is None:
        entries.pop()
    if torn:
        warn(f"the last line of {path} is torn and was left out")
    whole = [entry for entry in entries if entry is not None]
    if len(whole) < len(entries):
        raise UserError(f"{path} is damaged at line {entries.index(None) + 1}: {advice}.")
    return whole


def _entry(line: bytes, names: Collection[str]) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and all(name in entry for name in names) else None


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes named arrays (anything `np.asarray` takes) as one uncompressed .npz, atomically."""
    if jax.process_index() == 0:
        with replacing(path) as file:
            leaves = {name: np.asarray(value) for name, value in arrays.items()}
            # First in the file: damage to an entry of a zip's list can hide those behind it.
            listed = {_NAMES: np.array(sorted(leaves), np.str_)}
            np.savez(file, allow_pickle=False, **listed, **leaves)


def load_arrays(path: Path, stage: str, names: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Reads the whole of an .npz, whose CRC-32 of every array is verified.

    Args:
      stage: the stage that writes the file, for the error message.
      names: arrays that it must have.

    Raises:
      UserError: the file is missing, truncated, damaged, no .npz or of an older version.
    """
    advice = _repeat(stage)
    try:
        with zipfile.ZipFile(path) as archive:
            found = {
                name.removesuffix(".npy"): _array_of(archive, name) for name in archive.namelist()
            }
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: {advice}.") from error
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, RuntimeError) as error:
        raise UserError(f"{path} is damaged ({error}): {advice}.") from error
    written = found.pop(_NAMES, None)  # other writers of .npz know nothing of it
    if written is not None and written.tolist() != sorted(found):
        raise UserError(f"{path} is damaged (not the arrays that were written): {advice}.")
    lacking = [name for name in names if name not in found]
    if lacking:
        raise UserError(f"{path} has no array {lacking[0]}, so another version wrote it: {advice}.")
    return found


def _array_of(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        if file.read(1):  # the CRC is compared at the end of the file only
            raise ValueError(f"{name} is longer than its array")
    return array


def _repeat(stage: str) -> str:
    return f"delete stages/{stage}.json in the workdir and run again, stage {stage} writes it"
