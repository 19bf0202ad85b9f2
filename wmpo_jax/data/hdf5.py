"""robomimic's and LIBERO's HDF5 files: /data/demo_<i> with actions, obs/<camera>, rewards.

LIBERO keeps one file per task and the task's words in the attribute `problem_info` of /data. It
stores the simulator's pictures upside down, see `ReadOptions.rotate`.
"""

import json
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wmpo_jax.data.episodes import (
    BadEpisode,
    Episode,
    EpisodeInfo,
    ReadOptions,
    outcome,
    pick_camera,
)
from wmpo_jax.data.extras import require
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import replacing

FPS = 20.0  # control steps per second of robosuite's environments, where the file does not say
# What h5py raises for a damaged file, and for objects that are not what they should be.
DAMAGE = (OSError, KeyError, ValueError, RuntimeError, AttributeError, TypeError)


class Hdf5Source:
    """`EpisodeSource` of one .hdf5 or of all in a folder, in the order of their names."""

    def __init__(self, path: Path, options: ReadOptions) -> None:
        self.name = path.stem
        names = [f for pattern in ("*.hdf5", "*.h5") for f in path.glob(pattern)]
        self.files: Sequence[Path] = sorted(names) if path.is_dir() else [path]
        self._options = options
        self._open: dict[Path, Any] = {}
        self._lock = threading.Lock()
        self._demos = [(file, demo) for file in self.files for demo in self._demo_names(file)]
        if not self._demos:
            raise UserError(f"{path} holds no data/demo_<i> groups: give another path.")

    def __len__(self) -> int:
        return len(self._demos)

    def info(self, index: int) -> EpisodeInfo:
        path, demo = self._demos[index]
        with self._lock:
            try:
                return self._info(path, demo)
            except DAMAGE as error:
                raise BadEpisode(f"{path} {demo} is damaged ({error})") from error

    def frames(self, index: int, times_T: np.ndarray) -> np.ndarray:
        path, demo = self._demos[index]
        first, last = int(times_T[0]), int(times_T[-1])
        with self._lock:
            try:
                group = self._file(path)["data"][demo]
                frames = self._video(group, f"{path} {demo}")[1][first : last + 1]
            except DAMAGE as error:
                raise BadEpisode(f"{path} {demo} is damaged ({error})") from error
        frames = frames[np.asarray(times_T) - first]
        return frames[:, ::-1, ::-1] if self._options.rotate else frames

    def _info(self, path: Path, demo: str) -> EpisodeInfo:
        data = self._file(path)["data"]
        group = data[demo]
        camera, video = self._video(group, f"{path} {demo}")
        actions = np.asarray(group["actions"], np.float32)
        rewards = np.asarray(group["rewards"]) if "rewards" in group else None
        success, finish_step = outcome(rewards, len(actions))
        return EpisodeInfo(
            name=f"{path.stem}/{demo}",
            actions_NA=actions,
            num_frames=len(video),
            instruction=_instruction(group, data) or self._options.instruction,
            success=success,
            finish_step=finish_step,
            camera=camera,
            fps=_fps(data),
            source=path.stem,
            seed=int(group.attrs["seed"]) if "seed" in group.attrs else None,
        )

    def _video(self, group: Any, where: str) -> tuple[str, Any]:
        cameras = [key for key, array in group["obs"].items() if array.ndim == 4]
        camera = pick_camera(cameras, self._options.camera, where)
        return camera, group["obs"][camera]

    def _demo_names(self, path: Path) -> list[str]:
        """In the order of their numbers: demo_2 before demo_10."""
        try:
            names = [name for name in self._file(path)["data"] if name.startswith("demo_")]
        except FileNotFoundError as error:
            raise UserError(f"There is no file {path}: give another path.") from error
        except DAMAGE as error:
            raise UserError(
                f"{path} is not a readable robomimic file ({error}): copy it again."
            ) from error
        return sorted(names, key=lambda name: (len(name), name))

    def _file(self, path: Path) -> Any:
        if path not in self._open:
            self._open[path] = require("h5py").File(path, "r")
        return self._open[path]


def _instruction(group: Any, data: Any) -> str:
    if "language_instruction" in group.attrs:
        return str(group.attrs["language_instruction"])
    problem = json.loads(data.attrs.get("problem_info", "{}"))
    words = problem.get("language_instruction", "")
    # Some of LIBERO's files hold the words as a list.
    return str("".join(words) if isinstance(words, list) else words).strip().strip('"')


def _fps(data: Any) -> float:
    arguments = json.loads(data.attrs.get("env_args", "{}"))
    return float(arguments.get("env_kwargs", {}).get("control_freq", FPS))


def write_hdf5(path: Path, episodes: Iterable[Episode]) -> int:
    """Writes one file in robomimic's layout, whole or not at all; returns the episodes in it.

    Frames are compressed one by one, so that a window is read without its neighbors. The format
    has as many frames as actions: a frame after the last action is dropped.
    """
    h5py, count, steps = require("h5py"), 0, 0
    with replacing(path) as file, h5py.File(file, "w") as archive:
        data = archive.create_group("data")
        for episode in episodes:
            _write_demo(data.create_group(f"demo_{count}"), episode)
            arguments = {"env_kwargs": {"control_freq": episode.info.fps}}
            data.attrs["env_args"] = json.dumps(arguments)
            count, steps = count + 1, steps + len(episode.info.actions_NA)
        data.attrs["total"] = steps
    return count


def _write_demo(group: Any, episode: Episode) -> None:
    info, steps = episode.info, len(episode.info.actions_NA)
    frames = episode.frames_FHWC[:steps]
    group.create_dataset("actions", data=info.actions_NA)
    group.create_dataset(
        f"obs/{info.camera}", data=frames, chunks=(1, *frames.shape[1:]), compression="gzip"
    )
    group.create_dataset("dones", data=np.arange(1, steps + 1) == steps)
    if info.success is not None:
        reached = np.arange(1, steps + 1) >= info.finish_step
        group.create_dataset("rewards", data=(reached & info.success).astype(np.float32))
    group.attrs["num_samples"] = steps
    group.attrs["language_instruction"] = info.instruction
    if info.seed is not None:
        group.attrs["seed"] = info.seed
