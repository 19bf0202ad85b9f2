"""Which format a path holds, and one way to open and to write them all."""

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path

from wmpo_jax.data.episodes import Episode, EpisodeSource, ReadOptions
from wmpo_jax.data.hdf5 import Hdf5Source, write_hdf5
from wmpo_jax.data.lerobot import LeRobotSource
from wmpo_jax.data.lerobot_writing import write_lerobot
from wmpo_jax.data.rlds import RldsSource
from wmpo_jax.data.rlds_writing import write_rlds
from wmpo_jax.data.webdataset import WebDatasetSource, write_webdataset
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
# What betrays a format inside a folder, the most particular first.
_SIGNS = {
    "meta/info.json": "lerobot",
    "features.json": "rlds",
    "*.hdf5": "hdf5",
    "*.h5": "hdf5",
    "*.tar": "webdataset",
}
_SUFFIXES = {".tar": "webdataset", ".hdf5": "hdf5", ".h5": "hdf5"}


def add(name: str, sign: str, source: Callable[[Path, ReadOptions], EpisodeSource]) -> None:
    """Makes a format known to this process: folders in which a path matches `sign` are read so.

    Raises:
      UserError: the name is taken.
    """
    if name in SOURCES:
        raise UserError(f"There is a format called {name!r} already; choose another name.")
    SOURCES[name] = source
    _SIGNS[sign] = name


def open_source(path: Path, options: ReadOptions) -> EpisodeSource:
    """Opens a dataset of any format. UserError when there is none, or its frame is damaged."""
    folder, name = _find(path)
    return SOURCES[name](folder, options)


def _find(path: Path) -> tuple[Path, str]:
    """The dataset's folder or file, and its format. A TFDS dataset may be given by its parents."""
    if path.is_file() and path.suffix in _SUFFIXES:
        return path, _SUFFIXES[path.suffix]
    if path.is_dir():
        for sign, name in _SIGNS.items():
            if any(path.glob(sign)):
                return path, name
        versions = sorted(
            itertools.chain(path.glob("*/features.json"), path.glob("*/*/features.json"))
        )
        if versions:
            return versions[-1].parent, "rlds"
    found = "nothing" if not path.exists() else "no dataset of a known format"
    raise UserError(
        f"There is {found} at {path}: give a folder or file of {', '.join(SOURCES)} (docs/data.md)."
    )
