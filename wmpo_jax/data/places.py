"""Where datasets are: local paths, the Hugging Face Hub's folders, folders behind links."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from wmpo_jax.data.causes import is_pointer
from wmpo_jax.runtime import hub
from wmpo_jax.runtime.errors import UserError

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}(?=[^/])")
_COPY = {
    "gs": "gcloud storage cp -r {address} FOLDER",
    "s3": "aws s3 cp --recursive {address} FOLDER",
}
_VERSION = re.compile(r"\d+(\.\d+)+")


def local_path(path: Path | str, base: Path | None = None) -> Path:
    """The absolute path, `~` expanded, of what a user calls a dataset; `hf://` is downloaded.

    Args:
      base: what a relative path is relative to; None for the working directory.

    Raises:
      UserError: it is another address of the network, or there is no home folder.
    """
    if hub.is_address(path):
        return hub.fetched(path, "dataset")
    address = _ADDRESS.match(str(path))
    if address:  # pathlib has made one slash of two
        whole = f"{address[1]}://{str(path)[address.end() :]}"
        command = _COPY.get(address[1], "").format(address=whole)
        raise UserError(
            f"{whole} is not on a local disk: copy it there first{command and f' ({command})'}, or "
            "mount it."
        )
    try:
        return ((base or Path()) / Path(path).expanduser()).absolute()
    except RuntimeError as error:
        raise UserError(f"{path} has no home folder to begin at: give an absolute path.") from error


def visible(folder: Path) -> list[Path]:
    """What is in a folder, sorted; without what programs hide there (`._a.hdf5` of a Mac)."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def files_named(path: Path, *suffixes: str) -> list[Path]:
    """`path` itself if it is a file, or the files in it with one of the suffixes, in any case."""
    if not path.is_dir():
        return [path]
    return [file for file in visible(path) if file.suffix.lower() in suffixes and file.is_file()]


def refuse_pointer(path: Path) -> None:
    """UserError where a clone without Git LFS has left a note in the place of a file."""
    if is_pointer(path):
        raise UserError(
            f"{path} is a Git LFS pointer, not the file itself: run git lfs pull in its folder."
        )


def behind_links(folder: Path) -> list[Path]:
    """All files that are below `folder` only through links to other folders; no hidden ones."""
    found: list[Path] = []
    for parent, names, _ in os.walk(folder):
        names[:] = [name for name in names if not name.startswith(".")]
        links = [Path(parent, name) for name in names if Path(parent, name).is_symlink()]
        found += [file for link in links for file in _below(link, set())]
    return sorted(found)


def _below(folder: Path, seen: set[str]) -> Iterator[Path]:
    """All files below, through links too, but no folder twice."""
    real = os.path.realpath(folder)
    if real in seen or not folder.is_dir():
        return
    seen.add(real)
    for path in visible(folder):
        if path.is_dir():
            yield from _below(path, seen)
        elif path.is_file():
            yield path


def newest(folders: Sequence[Path]) -> list[Path]:
    """Of folders that are versions of one dataset only the highest, by numbers."""
    chosen: dict[Path, Path] = {}
    for folder in folders:
        versioned = _VERSION.fullmatch(folder.name)
        key = folder.parent if versioned else folder
        if key not in chosen or _number(folder) > _number(chosen[key]):
            chosen[key] = folder
    return list(chosen.values())


def _number(folder: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in folder.name.split(".") if part.isdigit())
