"""Which format a path holds, and one way to open and to write them all."""

from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from wmpo_jax.data import openx, places
from wmpo_jax.data.episodes import Episode, EpisodeSource, ReadOptions, cause
from wmpo_jax.data.hdf5 import Hdf5Source, write_hdf5
from wmpo_jax.data.lerobot import LeRobotSource
from wmpo_jax.data.lerobot_writing import write_lerobot
from wmpo_jax.data.machine import refuse_passing
from wmpo_jax.data.rlds import RldsSource
from wmpo_jax.data.rlds_writing import write_rlds
from wmpo_jax.data.webdataset import WebDatasetSource, write_webdataset
from wmpo_jax.runtime import hub
from wmpo_jax.runtime.errors import UserError

SOURCES: dict[str, Callable[[Path, ReadOptions], EpisodeSource]] = {
    "webdataset": WebDatasetSource,
    "hdf5": Hdf5Source,
    "lerobot": LeRobotSource,
    "rlds": RldsSource,
}
WRITERS: dict[str, Callable[[Path, Iterable[Episode]], int]] = {
    "webdataset": write_webdataset,
    "hdf5": write_hdf5,
    "lerobot": write_lerobot,
    "rlds": write_rlds,
    "rlds_tfrecord": lambda path, episodes: write_rlds(path, episodes, "tfrecord"),
}
# What a folder of a format contains, the most particular first.
_SIGNS = {
    "meta/info.json": "lerobot",
    "features.json": "rlds",
    "*.hdf5": "hdf5",
    "*.h5": "hdf5",
    "*.tar": "webdataset",
}
_SUFFIXES = {".tar": "webdataset", ".hdf5": "hdf5", ".h5": "hdf5"}
# Files of these two may be in any folder, for another reason; the others are folders of their own.
_WHOLE_FOLDERS = ("lerobot", "rlds")
# The formats that know an option; the rest know them all.
_KNOWN_BY = {"recipe": ("rlds", "hdf5"), "split": ("rlds", "hdf5")}


def add(name: str, sign: str, source: Callable[[Path, ReadOptions], EpisodeSource]) -> None:
    """Makes a format known to this process: folders in which a path matches `sign` are read so.

    Raises:
      UserError: the name is taken.
    """
    if name in SOURCES:
        raise UserError(f"There is a format called {name!r} already; choose another name.")
    SOURCES[name] = source
    _SIGNS[sign] = name


def open_source(path: Path | str, options: ReadOptions) -> EpisodeSource:
    """Opens a dataset of any format.

    Raises:
      UserError: there is none or more than one, it cannot be read at all, or an option does not
        apply to it.
    """
    path = places.local_path(path)
    try:
        place, name = _find(path)
        _check_options(place, name, options)
        source = SOURCES[name](place, options)
    except UserError:
        raise
    except Exception as error:  # of a reader's library, as in `episodes.checked_info`
        refuse_passing(error, str(path))
        raise UserError(f"{path} cannot be opened ({cause(error)}): copy it again.") from error
    if source.name == place.name:  # of a snapshot of the Hub: the commit's hash
        source.name = hub.name(place) or source.name
    if name == "lerobot":
        source.files = sorted({*source.files, *places.behind_links(place)})
    return source


def _check_options(path: Path, name: str, options: ReadOptions) -> None:
    if options.recipe and options.recipe not in openx.RECIPES:
        raise UserError(
            f"There is no recipe {options.recipe!r} for {path}; choose from "
            f"{', '.join(openx.RECIPES)}."
        )
    for option, formats in _KNOWN_BY.items():
        if getattr(options, option) and name in WRITERS and name not in formats:
            raise UserError(
                f"{path} is a {name} dataset, to which `{option}` does not apply: leave it out."
            )


def _find(path: Path) -> tuple[Path, str]:
    """The dataset's folder or file, and its format. A folder above the only one may be given."""
    if path.is_file() and path.suffix.lower() in _SUFFIXES:
        return path, _SUFFIXES[path.suffix.lower()]
    if path.is_dir():
        name = _format_of(path)
        if name:
            return path, name
        inner = places.newest([folder for folder in _folders_below(path, 2) if _format_of(folder)])
        if len(inner) > 1:
            listed = ", ".join(str(folder.relative_to(path)) for folder in inner[:20])
            raise UserError(
                f"{path} holds {len(inner)} datasets ({listed}): give the path of one, or list "
                "them in a mixture's .json (docs/data.md)."
            )
        if inner:
            return inner[0], _format_of(inner[0])
    found = "nothing" if not path.exists() else "no dataset of a known format"
    raise UserError(
        f"There is {found} at {path}: give a folder or file of {', '.join(SOURCES)} "
        "(docs/data.md), or hf://OWNER/NAME for a dataset of the Hugging Face Hub."
    )


def _format_of(folder: Path) -> str:
    """The format of a folder's own content; "" when it is none."""
    found = list(dict.fromkeys(name for sign, name in _SIGNS.items() if _matches(folder, sign)))
    if len(found) > 1 and found[0] not in _WHOLE_FOLDERS:
        raise UserError(
            f"{folder} holds files of {' and '.join(found)}: give the path of one file, or move "
            "the others away."
        )
    return found[0] if found else ""


def _matches(folder: Path, sign: str) -> bool:
    if "/" in sign:
        return any(folder.glob(sign))
    return any(fnmatch(path.name.lower(), sign.lower()) for path in places.visible(folder))


def _folders_below(folder: Path, depth: int) -> Iterator[Path]:
    """Folders down to `depth`, but none inside a dataset; not what TFDS has left unfinished."""
    for path in places.visible(folder):
        if path.is_dir() and "incomplete" not in path.name:
            yield path
            if depth > 1 and not _format_of(path):
                yield from _folders_below(path, depth - 1)
