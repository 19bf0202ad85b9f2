"""The one schema of an episode, whatever file it came from.

Frame k is what was seen before action k; action k leads to frame k + 1. Most formats end with the
last action (as many frames as actions); the reference's tars and our own also hold the frame after
it. Actions are in the environment's own units, as stored.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from wmpo_jax.data.machine import refuse_passing
from wmpo_jax.runtime.errors import UserError

FPS = 20.0  # control steps per second of robosuite's environments, where a dataset does not say
_RATE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:hz|fps)?\s*", re.IGNORECASE)


class BadEpisode(Exception):
    """One episode cannot be used. The message says where and why, without a full stop."""


@dataclass(frozen=True, eq=False)
class EpisodeInfo:
    """All of an episode that is known without decoding its video.

    Attributes:
      name: unique within its dataset; writing an episode of the same name again replaces it.
      actions_NA: float32, in the environment's units.
      num_frames: N or N + 1.
      instruction: what the robot was asked to do; "" when the dataset does not say.
      success: None when the dataset does not say.
      finish_step: actions executed when success first held, otherwise N.
      camera: the camera's name in the dataset.
      fps: control steps per second.
      source: the dataset or the actor that it came from.
      seed: of the initial state, if there was one.
      fps_known: False where the dataset does not say and `fps` is robosuite's.
    """

    name: str
    actions_NA: np.ndarray
    num_frames: int
    instruction: str
    success: bool | None
    finish_step: int
    camera: str
    fps: float
    source: str
    seed: int | None = None
    fps_known: bool = True


@dataclass(frozen=True, eq=False)
class Episode:
    """An episode with its frames, uint8 [F, H, W, 3], F = info.num_frames."""

    info: EpisodeInfo
    frames_FHWC: np.ndarray


@dataclass(frozen=True)
class ReadOptions:
    """What a dataset does not say about itself.

    Attributes:
      camera: key of the camera; "" takes the first that looks like a view from outside.
      instruction: for episodes that have none.
      rotate: turn frames by 180 degrees (LIBERO's HDF5 files hold them upside down).
      recipe: name of a recipe in `data.openx.RECIPES` that makes 7-dimensional actions of the own
        ones of an RLDS dataset or an HDF5 file; "" takes them as they are.
      raw_gripper: leave the last action dimension out of normalization, as OpenVLA does.
      split: of an HDF5 file, a group under `mask`, "" for all episodes; of an RLDS dataset, ""
        for `train`.
    """

    camera: str = ""
    instruction: str = ""
    rotate: bool = False
    recipe: str = ""
    raw_gripper: bool = False
    split: str = ""


class EpisodeSource(Protocol):
    """A dataset on disk with random access to its episodes. Readers are safe to share by threads.

    Attributes:
      name: how a person calls it.
      files: everything it is read from; their content is the dataset's identity.
    """

    name: str
    files: Sequence[Path]

    def __len__(self) -> int: ...

    def info(self, index: int) -> EpisodeInfo:
        """Without decoding video. Raises BadEpisode."""
        ...

    def frames(self, index: int, times_T: np.ndarray) -> np.ndarray:
        """uint8 [T, H, W, 3], the frames at increasing `times_T`, int in 0..num_frames - 1.

        Raises BadEpisode.
        """
        ...


def read_episode(source: EpisodeSource, index: int) -> Episode:
    """Episode number `index`, checked and with all of its frames. Raises BadEpisode."""
    info = checked_info(source, index)
    return Episode(info, checked_frames(source, index, np.arange(info.num_frames)))


def checked_info(source: EpisodeSource, index: int) -> EpisodeInfo:
    """`source.info(index)`; BadEpisode when it cannot be read or its numbers cannot be."""
    with _guard(source, index):
        info = source.info(index)
        _check_info(info, f"{source.name} episode {info.name}")
    return info


def checked_frames(source: EpisodeSource, index: int, times_T: np.ndarray) -> np.ndarray:
    """`source.frames(index, times_T)`; BadEpisode when these are not RGB pictures."""
    where = f"{source.name} episode {index}"
    with _guard(source, index):
        frames = source.frames(index, times_T)
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            shape = f"{frames.dtype}{list(frames.shape)}"
            raise BadEpisode(f"{where} has frames {shape}, not uint8 [T, H, W, 3]")
        if len(frames) != len(times_T):
            raise BadEpisode(f"{where} gave {len(frames)} of {len(times_T)} frames")
    return frames


@contextlib.contextmanager
def _guard(source: EpisodeSource, index: int) -> Iterator[None]:
    """Whatever a reader raises becomes a BadEpisode that names the episode and the cause.

    Readers open files of anybody's making with half a dozen libraries, whose exceptions nobody has
    listed: hence the broad `except`. What the user or the machine has to answer for stops the run.
    """
    where = f"{source.name} episode {index}"
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        refuse_passing(error, where)
        if isinstance(error, BadEpisode):
            raise
        raise BadEpisode(f"{where} cannot be read ({cause(error)})") from error


def cause(error: BaseException) -> str:
    """An exception in one short line, with its type where the text alone says little."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 200 else f"{text[:200]} ..."
    return text if " " in text else f"{type(error).__name__}: {text}"


def _check_info(info: EpisodeInfo, where: str) -> None:
    actions = info.actions_NA
    if actions.ndim != 2 or 0 in actions.shape:
        raise BadEpisode(f"{where} has actions of shape {list(actions.shape)}, not [steps, A]")
    if not np.isfinite(actions).all():
        step = int(np.flatnonzero(~np.isfinite(actions).all(axis=1))[0])
        raise BadEpisode(f"{where} has a NaN or an infinity in action {step}")
    if info.num_frames not in (len(actions), len(actions) + 1):
        raise BadEpisode(f"{where} has {info.num_frames} frames for {len(actions)} actions")
    if not 0 < info.finish_step <= len(actions):
        raise BadEpisode(f"{where} finishes at step {info.finish_step} of {len(actions)}")
    if not 0 < info.fps < float("inf"):
        raise BadEpisode(f"{where} has {info.fps} frames per second")


def outcome(rewards_N: np.ndarray | None, steps: int) -> tuple[bool | None, int]:
    """(success, finish_step) from sparse rewards, which are 0 and 1; of others (None, steps).

    Dense rewards say how well it goes, not whether the task is done.
    """
    if rewards_N is None:
        return None, steps
    rewards = np.asarray(rewards_N).reshape(-1)
    if not np.isin(rewards, (0, 1)).all():
        return None, steps
    hits = np.flatnonzero(rewards)
    return (True, int(hits[0]) + 1) if len(hits) else (False, steps)


def frame_rate(value: Any, where: str) -> tuple[float, bool]:
    """(fps, fps_known) of what a dataset says: a number, "15 Hz", or None. Raises BadEpisode."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if value is None or value == "":
        return FPS, False
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    match = _RATE.fullmatch(text)
    if match is None or isinstance(value, bool) or float(match[1]) == 0:
        raise BadEpisode(f"{where} has the frame rate {text!r}, which is not a number above 0")
    return float(match[1]), True


def yes_or_no(value: Any, where: str) -> bool:
    """What a dataset says of an outcome: a truth value, 0 or 1, or one of these as text.

    Raises:
      BadEpisode: it is anything else; Python would take the text "False" for true, and NaN too.
    """
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    known = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    if text.strip().lower() not in known:
        raise BadEpisode(f"{where} has {value!r} for its success, not true or false")
    return known[text.strip().lower()]


def seed_of(value: Any, where: str) -> int | None:
    """The whole number that a dataset gives as its seed, or None. Raises BadEpisode."""
    if value is None:
        return None
    try:
        number = int(np.asarray(value).reshape(-1)[0])
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise BadEpisode(f"{where} has the seed {value!r}, which is not a number") from error
    return number


def pick_camera(cameras: Sequence[str], wanted: str, where: str) -> str:
    """The wanted camera, or the first that is not on the wrist. Raises BadEpisode."""
    if wanted and wanted not in cameras:
        known = ", ".join(sorted(cameras)) or "none"
        raise BadEpisode(f"{where} has no camera {wanted} (it has: {known})")
    if not cameras:
        raise BadEpisode(f"{where} has no camera")
    color = [c for c in cameras if "depth" not in c and "segment" not in c]
    outside = [c for c in color if "wrist" not in c and "hand" not in c and "gripper" not in c]
    preferred = [c for c in outside if "agentview" in c]
    return wanted or [*preferred, *outside, *color, *cameras][0]
