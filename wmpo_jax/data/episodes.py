"""The one schema of an episode, whatever file it came from.

Frame k is what was seen before action k; action k leads to frame k + 1. Most formats end with the
last action (as many frames as actions); the reference's tars and our own also hold the frame after
it. Actions are in the environment's own units, as stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np


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
      recipe: name of a recipe in `data.openx.RECIPES` that makes 7-dimensional actions of an RLDS
        dataset's own; "" takes `action` as it is.
      raw_gripper: leave the last action dimension out of normalization, as OpenVLA does.
    """

    camera: str = ""
    instruction: str = ""
    rotate: bool = False
    recipe: str = ""
    raw_gripper: bool = False


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
    """`source.info(index)`, refused (BadEpisode) when its numbers cannot be."""
    info = source.info(index)
    actions, where = info.actions_NA, f"{source.name} episode {info.name}"
    if actions.ndim != 2 or 0 in actions.shape:
        raise BadEpisode(f"{where} has actions of shape {list(actions.shape)}, not [steps, A]")
    if not np.isfinite(actions).all():
        step = int(np.flatnonzero(~np.isfinite(actions).all(axis=1))[0])
        raise BadEpisode(f"{where} has a NaN or an infinity in action {step}")
    if info.num_frames not in (len(actions), len(actions) + 1):
        raise BadEpisode(f"{where} has {info.num_frames} frames for {len(actions)} actions")
    if not 0 < info.finish_step <= len(actions):
        raise BadEpisode(f"{where} finishes at step {info.finish_step} of {len(actions)}")
    return info


def checked_frames(source: EpisodeSource, index: int, times_T: np.ndarray) -> np.ndarray:
    """`source.frames(index, times_T)`, refused (BadEpisode) when they are not RGB pictures."""
    frames = source.frames(index, times_T)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        shape = f"{frames.dtype}{list(frames.shape)}"
        raise BadEpisode(
            f"{source.name} episode {index} has frames {shape}, not uint8 [T, H, W, 3]"
        )
    if len(frames) != len(times_T):
        raise BadEpisode(
            f"{source.name} episode {index} gave {len(frames)} of {len(times_T)} frames"
        )
    return frames


def outcome(rewards_N: np.ndarray | None, steps: int) -> tuple[bool | None, int]:
    """(success, finish_step) from sparse rewards; without rewards (None, steps)."""
    if rewards_N is None:
        return None, steps
    hits = np.flatnonzero(np.asarray(rewards_N) > 0)
    return (True, int(hits[0]) + 1) if len(hits) else (False, steps)


def pick_camera(cameras: Sequence[str], wanted: str, where: str) -> str:
    """The wanted camera, or the first that is not on the wrist. Raises BadEpisode."""
    if wanted and wanted not in cameras:
        known = ", ".join(sorted(cameras)) or "none"
        raise BadEpisode(f"{where} has no camera {wanted} (it has: {known})")
    if not cameras:
        raise BadEpisode(f"{where} has no camera")
    outside = [c for c in cameras if "wrist" not in c and "hand" not in c and "gripper" not in c]
    preferred = [c for c in outside if "agentview" in c]
    return wanted or [*preferred, *outside, *cameras][0]
