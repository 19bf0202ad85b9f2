"""robomimic's and LIBERO's HDF5 files: /data/demo_<i> with actions, obs/<camera>, rewards.

LIBERO keeps one file per task, its instruction in the attribute `problem_info` of /data, and stores
the simulator's pictures upside down, see `ReadOptions.rotate`.
"""

import json
import threading
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wmpo_jax.data import hdf5_layout, openx, places
from wmpo_jax.data.episodes import (
    BadEpisode,
    Episode,
    EpisodeInfo,
    ReadOptions,
    cause,
    pick_camera,
    seed_of,
)
from wmpo_jax.data.extras import require
from wmpo_jax.data.machine import refuse_passing
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import replacing

OPEN_FILES = 64  # at a time; a process may have a thousand, of everything
# What h5py raises for a damaged file, and for objects that are not what they should be.
DAMAGE = (OSError, KeyError, ValueError, RuntimeError, AttributeError, TypeError, BadEpisode)


class Hdf5Source:
    """`EpisodeSource` of one .hdf5 or of all in a folder, in the order of their names."""

    def __init__(self, path: Path, options: ReadOptions) -> None:
        self.name = path.name if path.is_dir() else path.stem
        self.files: Sequence[Path] = places.files_named(path, ".hdf5", ".h5")
        self._options = options
        self._open: dict[Path, Any] = {}
        self._lock = threading.Lock()
        self._unused_splits: set[str] = set()
        self._upside_down: list[Path] = []
        self._demos = [(file, demo) for file in self.files for demo in self._chosen(file)]
        self._check_pictures(path)
        self._cameras: dict[int, str] = {}
        self._warn(path)

    def __len__(self) -> int:
        return len(self._demos)

    def info(self, index: int) -> EpisodeInfo:
        with self._lock:
            return self._info(*self._demos[index])

    def frames(self, index: int, times_T: np.ndarray) -> np.ndarray:
        path, demo = self._demos[index]
        first, last = int(times_T[0]), int(times_T[-1])
        with self._lock:
            group = self._file(path)["data"][demo]
            if index not in self._cameras:  # listing what is in obs takes longer than a window
                self._cameras[index] = self._video(group, f"{path} {demo}")[0]
            frames = group["obs"][self._cameras[index]][first : last + 1]
        frames = frames[np.asarray(times_T) - first]
        return frames[:, ::-1, ::-1] if self._options.rotate else frames

    def _info(self, path: Path, demo: str) -> EpisodeInfo:
        data, where = self._file(path)["data"], f"{path} {demo}"
        group = data[demo]
        camera, video = self._video(group, where)
        actions = self._actions(group, where)
        success, finish_step = hdf5_layout.result(group, len(actions), where)
        fps, fps_known = hdf5_layout.frames_per_second(group, data, where)
        return EpisodeInfo(
            name=f"{path.stem}/{demo}",
            actions_NA=actions,
            num_frames=len(video),
            instruction=hdf5_layout.instruction(group, data, where) or self._options.instruction,
            success=success,
            finish_step=finish_step,
            camera=camera,
            fps=fps,
            source=path.stem,
            seed=seed_of(group.attrs.get("seed"), where),
            fps_known=fps_known,
        )

    def _actions(self, group: Any, where: str) -> np.ndarray:
        if "actions" not in group:
            raise BadEpisode(f"{where} has no actions (it has: {', '.join(group)})")
        stored = np.asarray(group["actions"], np.float32)
        return openx.actions({"action": stored, "observation": {}}, self._options.recipe, where)

    def _video(self, group: Any, where: str) -> tuple[str, Any]:
        cameras = hdf5_layout.pictures(group)
        if not cameras:
            raise BadEpisode(f"{where} {hdf5_layout.without_pictures(group)[0]}")
        camera = pick_camera(list(cameras), self._options.camera, where)
        return camera, cameras[camera]

    def _chosen(self, path: Path) -> list[str]:
        """The demonstrations of a file, all or those of a split."""
        try:
            archive = self._file(path)
            demos, splits = hdf5_layout.demo_names(archive, path), hdf5_layout.splits(archive)
            if hdf5_layout.upside_down(archive["data"]):
                self._upside_down.append(path)
        except FileNotFoundError as error:
            raise UserError(f"There is no file {path}: give another path.") from error
        except DAMAGE as error:
            refuse_passing(error, str(path))
            places.refuse_pointer(path)
            raise UserError(
                f"{path} is not a readable HDF5 file ({cause(error)}): copy it again."
            ) from error
        wanted = self._options.split
        if not wanted:
            self._unused_splits |= splits.keys()
            return demos
        if wanted not in splits:
            known = ", ".join(sorted(splits)) or "none"
            raise UserError(f"{path} has no split {wanted} (it has: {known}): name another one.")
        return [demo for demo in demos if demo in splits[wanted]]

    def _check_pictures(self, path: Path) -> None:
        """UserError where no episode has any; some may, and the others are bad."""
        if not self._demos:
            raise UserError(f"{path} has no episodes in the split {self._options.split}.")
        groups = (self._file(file)["data"].get(demo) for file, demo in self._demos)
        if not any(hdf5_layout.pictures(group) for group in groups):
            file, demo = self._demos[0]
            reason, remedy = hdf5_layout.without_pictures(self._file(file)["data"][demo])
            raise UserError(f"Of {file}, {demo} {reason}, and no other episode: {remedy}.")

    def _warn(self, path: Path) -> None:
        if self._unused_splits:
            warnings.warn(
                f"{path} has the splits {', '.join(sorted(self._unused_splits))}, and all of its "
                "episodes are read; the option `split` takes those of one",
                stacklevel=3,
            )
        if self._upside_down and not self._options.rotate:
            warnings.warn(
                f"{self._upside_down[0]} says that its pictures are upside down, and they are read "
                "as they are; config.data.rotation=180 turns them (`rotate` in a mixture)",
                stacklevel=3,
            )

    def _file(self, path: Path) -> Any:
        """The open file; of many only the latest stay open."""
        if path not in self._open:
            if len(self._open) >= OPEN_FILES:
                self._open.pop(next(iter(self._open))).close()
            self._open[path] = require("h5py").File(path, "r")
        return self._open[path]


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
            if episode.info.fps_known:
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
