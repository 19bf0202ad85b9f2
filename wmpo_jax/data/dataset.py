"""A dataset that has been looked through: which episodes are good, how long, and their statistics.

The look costs one pass and is remembered under the hash of the files' content, in
`$XDG_CACHE_HOME/wmpo_jax/datasets` (`~/.cache` by default). Statistics need no video; whether a
video can be decoded is found out in the same pass, so that training does not stop hours later.
"""

import dataclasses
import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wmpo_jax.data import places
from wmpo_jax.data.episodes import (
    BadEpisode,
    EpisodeInfo,
    EpisodeSource,
    ReadOptions,
    checked_frames,
    checked_info,
)
from wmpo_jax.data.formats import open_source
from wmpo_jax.data.machine import refuse_passing
from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import save_json
from wmpo_jax.runtime.progress import progress

ON_BAD = ("refuse", "skip")
VERIFY = ("all", "ends", "none")
BLOCK = 8  # frames at once while verifying, as in a window: seeking has faults of its own
CACHE_VERSION = 2  # of the look; another one is not read


@dataclass(frozen=True)
class Entry:
    """What is remembered of a good episode."""

    index: int
    steps: int
    num_frames: int
    instruction: str
    success: bool | None


@dataclass(frozen=True, eq=False)
class Dataset:
    """A source and what is known about it.

    Attributes:
      episodes: the good ones.
      bad: (index, reason) of the others.
      statistics: over the actions of all good episodes.
      frame_shape: (height, width, 3) of all frames, or () when none was decoded.
      content: hash of its files, whatever they are called (`content_hash`).
      on_bad: what to do when an episode turns out bad later: "refuse" or "skip".
    """

    source: EpisodeSource
    options: ReadOptions
    episodes: Sequence[Entry]
    bad: Sequence[tuple[int, str]]
    statistics: ActionStatistics
    frame_shape: tuple[int, ...]
    content: str
    on_bad: str

    @property
    def name(self) -> str:
        return self.source.name


def open_dataset(
    path: Path | str,
    options: ReadOptions | None = None,
    *,
    on_bad: str = "refuse",
    verify: str = "all",
) -> Dataset:
    """Opens a dataset and looks it through, once per content.

    Args:
      on_bad: "refuse" raises at the first bad episode, "skip" counts them in a warning.
      verify: which frames are decoded in the look: "all", "ends" (the first and the last of every
        episode) or "none".

    Raises:
      UserError: no dataset there, a bad episode with "refuse", no good one with "skip".
    """
    _check_choice("on_bad", on_bad, ON_BAD)
    _check_choice("verify", verify, VERIFY)
    options, path = options or ReadOptions(), places.local_path(path)
    source = open_source(path, options)
    content = content_hash(source)
    look = _remembered(path, source, content, options, verify)
    _report_bad(path, len(source), look["bad"], on_bad)
    silent = sum(not entry.instruction for entry in look["episodes"])
    if silent:
        warnings.warn(
            f"{path}: {silent} of {len(look['episodes'])} episodes have no instruction; "
            "config.data.instruction gives them one (`instruction` in a mixture)",
            stacklevel=2,
        )
    return Dataset(
        source=source,
        options=options,
        content=content,
        on_bad=on_bad,
        **look,
    )


def _report_bad(path: Path, count: int, bad: Sequence[tuple[int, str]], on_bad: str) -> None:
    """Raises or warns, as `on_bad` says; without a good episode there is nothing to skip."""
    if len(bad) == count:
        raise UserError(f"No episode of {path} can be used, the first: {bad[0][1]}.")
    if bad and on_bad == "refuse":
        raise UserError(
            f"{len(bad)} of {count} episodes of {path} are bad, the first: {bad[0][1]}; repair "
            "them or set on_bad to skip."
        )
    if bad:
        warnings.warn(
            f"{path}: skipped {len(bad)} bad of {count} episodes, the first: {bad[0][1]}",
            stacklevel=3,
        )


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UserError(f"{name} is {value!r}: choose from {', '.join(choices)}.")


def content_hash(source: EpisodeSource) -> str:
    """Of the relative paths and the bytes of all files: one reading of the disk."""
    digest = hashlib.blake2b(digest_size=20)
    folder = Path(os.path.commonpath([path.parent for path in source.files] or [""]))
    for path in source.files:
        try:
            digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while chunk := file.read(1 << 22):
                    digest.update(chunk)
        except OSError as error:
            refuse_passing(error, str(path))
            raise UserError(f"{path} cannot be read ({error}): copy it again.") from error
    return digest.hexdigest()


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "wmpo_jax/datasets"


def _remembered(
    path: Path, source: EpisodeSource, content: str, options: ReadOptions, verify: str
) -> dict[str, Any]:
    """`episodes`, `bad`, `statistics` and `frame_shape` of a Dataset."""
    question = json.dumps([CACHE_VERSION, dataclasses.asdict(options), verify])
    asked = hashlib.blake2b(question.encode(), digest_size=4).hexdigest()
    name = f"{content}_{asked}.json"
    try:
        return _parsed(json.loads((cache_folder() / name).read_bytes()))
    # Not there, no home folder, half of it or something else in its place: look again.
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, UserError):
        look = _look(source, options, verify)
    look["bad"] = [(index, _without_path(reason, path)) for index, reason in look["bad"]]
    try:
        save_json(cache_folder() / name, look)
    except (UserError, OSError, RuntimeError) as error:
        warnings.warn(f"{path} will be looked through again next time: {error}", stacklevel=3)
    return _parsed(look)


def _parsed(look: dict[str, Any]) -> dict[str, Any]:
    return {
        "episodes": [Entry(**entry) for entry in look["episodes"]],
        "bad": [(int(index), str(reason)) for index, reason in look["bad"]],
        # Without a good episode there are none, and the dataset is refused.
        "statistics": look["episodes"] and ActionStatistics.from_json(look["statistics"]),
        "frame_shape": tuple(look["frame_shape"]),
    }


def _without_path(reason: str, path: Path) -> str:
    """Files in it by their place in the dataset: it is known by its content and may be moved."""
    for folder in (path, path.resolve()):
        reason = reason.replace(f"{folder}/", "").replace(str(folder), folder.name)
    return reason


def _look(source: EpisodeSource, options: ReadOptions, verify: str) -> dict[str, Any]:
    """Reads every episode once: {name, episodes, bad, statistics, frame_shape}, all JSON."""
    entries, bad, actions, shape = [], [], [], ()
    with progress(len(source), 0, f"look through {source.name}") as bar:
        for index in range(len(source)):
            try:
                info = checked_info(source, index)
                _check_width(info, actions)
                shape = _check_frames(source, index, info, verify, shape)
            except BadEpisode as error:
                bad.append((index, str(error)))
            else:
                actions.append(info.actions_NA)
                entries.append(dataclasses.asdict(_entry(index, info)))
            bar.advance()
    return {
        "name": source.name,
        "episodes": entries,
        "bad": bad,
        "statistics": _statistics(actions, options.raw_gripper) if actions else {},
        "frame_shape": shape,
    }


def _entry(index: int, info: EpisodeInfo) -> Entry:
    return Entry(index, len(info.actions_NA), info.num_frames, info.instruction, info.success)


def _check_width(info: EpisodeInfo, earlier: Sequence[np.ndarray]) -> None:
    width = info.actions_NA.shape[1]
    if earlier and width != earlier[0].shape[1]:
        raise BadEpisode(
            f"episode {info.name} has {width} numbers per action, others {earlier[0].shape[1]}"
        )


def _check_frames(
    source: EpisodeSource, index: int, info: EpisodeInfo, verify: str, expected: tuple[int, ...]
) -> tuple[int, ...]:
    """Decodes what `verify` asks for; returns the shape that all frames of the dataset have."""
    everything = np.arange(info.num_frames)
    blocks = {
        "all": np.split(everything, range(BLOCK, info.num_frames, BLOCK)),
        "ends": [everything[[0, -1]]],
        "none": [],
    }[verify]
    for times in blocks:
        shape = checked_frames(source, index, times).shape[1:]
        if expected and shape != expected:
            raise BadEpisode(
                f"{source.name} episode {info.name} has frames of {list(shape)}, others of "
                f"{list(expected)}"
            )
        expected = shape
    return expected


def _statistics(actions: Sequence[np.ndarray], raw_gripper: bool) -> dict[str, Any]:
    actions_NA = np.concatenate(actions)
    mask = np.ones(actions_NA.shape[1], bool)
    mask[-1] = not raw_gripper
    return ActionStatistics.from_actions(actions_NA, mask).to_json()
