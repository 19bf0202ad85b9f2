"""LeRobot datasets, version 3: parquet tables of steps and episodes, and mp4 videos.

    meta/info.json, meta/tasks.parquet, meta/stats.json, meta/episodes/chunk-*/file-*.parquet
    data/chunk-*/file-*.parquet               one row per step, many episodes in a file
    videos/<camera>/chunk-*/file-*.mp4        likewise, one episode after the other

Cameras whose pictures lie in the data table itself are read too. What a step is, its row says: its
place in the episode (`frame_index`), its picture (`timestamp`, in seconds since the episode began,
of a video the nearest frame) and its instruction (`task_index`).
"""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from wmpo_jax.data.episodes import (
    BadEpisode,
    EpisodeInfo,
    ReadOptions,
    outcome,
    pick_camera,
    yes_or_no,
)
from wmpo_jax.data.jpeg import decode_picture
from wmpo_jax.data.lerobot_meta import EpisodeTable, Facts, Tasks
from wmpo_jax.data.lerobot_tables import Rows, StepTables, numbers, row_numbers
from wmpo_jax.data.lerobot_videos import Videos

ACTIONS = ("action", "actions")  # LeRobot's column and openpi's
# Of these the one that is there puts rows in order, the first before the others.
ORDER = ("frame_index", "timestamp", "index")
RESULTS = ("next.success", "next.reward")
NO_COLORS = re.compile("depth|disparity|infra|segment|mask")  # in the name of a camera


@dataclass(frozen=True, eq=False)
class Steps:
    """An episode's rows in the order of time, and their seconds since it began."""

    rows: Rows
    seconds_N: np.ndarray


class LeRobotSource:
    """`EpisodeSource` of a dataset's folder."""

    def __init__(self, path: Path, options: ReadOptions) -> None:
        self.name = path.name
        self.files: Sequence[Path] = sorted(
            file
            for file in path.rglob("*")
            if file.is_file() and not any(p.startswith(".") for p in file.relative_to(path).parts)
        )
        self._path, self._options = path, options
        self._facts = Facts(path)
        self._tasks, self._episodes = Tasks(path), EpisodeTable(path)
        self._tables = StepTables(path)
        self._steps = lru_cache(maxsize=4096)(lambda index: self._read(index)[0])
        self._videos = lru_cache(maxsize=None)(
            lambda camera: Videos(path, self._facts, self._episodes, camera)
        )

    def __len__(self) -> int:
        return len(self._episodes)

    def info(self, index: int) -> EpisodeInfo:
        with self._named(index):
            _, table = self._read(index)
            actions = _actions(table)
            success, finish_step = self._outcome(index, table, len(actions))
            return EpisodeInfo(
                name=str(self._episodes.whole(index, "episode_index")),
                actions_NA=actions,
                num_frames=len(actions),
                instruction=self._instruction(index, table),
                success=success,
                finish_step=finish_step,
                camera=self._camera(),
                fps=self._facts.fps,
                source=self._episodes.value(index, "source") or self.name,
                seed=self._seed(index),
            )

    def frames(self, index: int, times_T: np.ndarray) -> np.ndarray:
        with self._named(index):
            camera, steps = self._camera(), self._steps(index)
            if self._facts.features[camera]["dtype"] == "image":
                frames = self._pictures(steps.rows, times_T, camera)
            else:
                frames = self._videos(camera).read(index, steps.seconds_N[times_T])
        return frames[:, ::-1, ::-1] if self._options.rotate else frames

    @contextlib.contextmanager
    def _named(self, index: int) -> Iterator[None]:
        try:
            yield
        except BadEpisode as error:
            number = self._episodes.value(index, "episode_index")
            raise BadEpisode(f"{self.name} episode {number}: {error}") from error

    def _read(self, index: int) -> tuple[Steps, Any]:
        """The rows of an episode and a pyarrow Table of what `info` needs, both in order."""
        place = self._episodes.place(index, "data")
        file = self._path / self._facts.data_path.format(**place)
        number = self._episodes.whole(index, "episode_index")
        there = self._tables.columns(file)
        action = next((name for name in ACTIONS if name in there), None)
        if action is None:
            raise BadEpisode(f"its table has no column action (it has: {', '.join(there)})")
        length = self._episodes.whole(index, "length")
        if not length:
            raise BadEpisode("it has no steps by meta/episodes")
        wanted = (action, *(c for c in (*ORDER, "task_index", *RESULTS) if c in there))
        rows, table = self._tables.episode(file, number, wanted)
        if len(rows) != length:
            raise BadEpisode(
                f"{file.relative_to(self._path)} holds {len(rows)} of the {length} steps of "
                f"episode {number}"
            )
        order = _order(table)
        table = table.take(order)
        return Steps(rows.take(order), _seconds(table, self._facts.fps)), table

    def _camera(self) -> str:
        features = self._facts.features
        cameras = [key for key, f in features.items() if f.get("dtype") in ("video", "image")]
        wanted = self._options.camera
        depth = [camera for camera in cameras if _is_depth(features[camera])]
        if wanted in depth:
            raise BadEpisode(f"its camera {wanted} is a depth map: name one with colors")
        colored = [c for c in cameras if c not in depth]
        if not wanted:
            colored = [c for c in colored if _has_colors(c, features[c])]
            if cameras and not colored:
                raise BadEpisode(f"it has no camera with colors (it has: {', '.join(cameras)})")
        return pick_camera(colored, wanted, "it")

    def _instruction(self, index: int, table: Any) -> str:
        """What all rows say; the episode's own list only where rows or tasks say nothing."""
        given, listed = self._options.instruction, self._episodes.tasks(index)
        unknown = "names no task"
        if "task_index" in table.column_names:
            tasks_N = row_numbers(table, "task_index").astype(int)
            texts = {task: self._tasks.text(task) for task in dict.fromkeys(tasks_N.tolist())}
            if None not in texts.values():
                _check_constant([texts[task] or "" for task in tasks_N.tolist()])
                return texts[int(tasks_N[0])] or given
            unnamed = next(task for task, text in texts.items() if text is None)
            lacks = "does not list it" if self._tasks.found else "is missing"
            unknown = f"has the task_index {unnamed}, and meta/tasks.parquet {lacks}"
            listed = listed if len(texts) == 1 else []
        if len(listed) == 1 and listed[0]:
            return listed[0]
        if not given:
            raise BadEpisode(f"it {unknown}: give its instruction")
        return given

    def _outcome(self, index: int, table: Any, count: int) -> tuple[bool | None, int]:
        success = self._episodes.value(index, "success")
        if success is not None:
            said = yes_or_no(success, "meta/episodes")
            known = self._episodes.value(index, "finish_step") is not None
            return said, self._episodes.whole(index, "finish_step") if known else count
        for column in RESULTS:
            if column in table.column_names:
                return outcome(row_numbers(table, column), count)
        return None, count

    def _seed(self, index: int) -> int | None:
        known = self._episodes.value(index, "seed") is not None
        return self._episodes.whole(index, "seed") if known else None

    def _pictures(self, rows: Rows, times_T: np.ndarray, camera: str) -> np.ndarray:
        there = self._tables.columns(rows.file)
        if camera not in there:
            raise BadEpisode(f"its table has no column {camera} (it has: {', '.join(there)})")
        frames = []
        for time in times_T.tolist():
            cell = self._tables.cell(rows, time, camera)
            try:
                frames.append(decode_picture(self._picture_file(cell)))
            except ValueError as error:
                raise BadEpisode(f"it has a damaged picture at step {time} ({error})") from error
        if len({frame.shape for frame in frames}) > 1:
            raise BadEpisode(f"its pictures in {camera} have different sizes")
        return np.stack(frames)

    def _picture_file(self, cell: Any) -> bytes:
        """The bytes in a cell of Hugging Face's type Image, or in the file it names."""
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if isinstance(content, bytes) and content:
            return content
        path = cell.get("path") if isinstance(cell, dict) else None
        if not path:
            raise BadEpisode(f"it has {str(cell)[:60]!r} where an encoded picture belongs")
        root = self._path.absolute()
        # Not resolved: a snapshot of the Hub consists of links to files elsewhere.
        file = Path(os.path.normpath(root / path))
        if not file.is_relative_to(root):
            raise BadEpisode(
                f"its pictures are not in the table, which names files outside the dataset ({path})"
            )
        if not file.is_file():
            raise BadEpisode(f"its pictures are not in the table, and the file {path} is missing")
        return file.read_bytes()


def _order(table: Any) -> np.ndarray:
    """The rows of an episode in the order of time. Raises BadEpisode when it is not certain."""
    key = next((key for key in ORDER if key in table.column_names), None)
    if key is None:
        return np.arange(len(table))
    values = row_numbers(table, key)
    order = np.argsort(values, kind="stable")
    steps = np.diff(values[order])
    if not (steps > 0).all():
        raise BadEpisode(f"it has {key} {values[order][int(steps.argmin())]:g} in two rows")
    if key == "frame_index" and not (steps == 1).all():
        place = int(np.flatnonzero(steps != 1)[0])
        raise BadEpisode(
            f"it has no row between frame_index {values[order][place]:g} and "
            f"{values[order][place + 1]:g}"
        )
    return order


def _seconds(table: Any, fps: float) -> np.ndarray:
    """Of the rows, which are in order; from their places where there are no timestamps."""
    if "timestamp" not in table.column_names:
        if "frame_index" in table.column_names:
            return row_numbers(table, "frame_index") / fps
        return np.arange(len(table)) / fps
    seconds = row_numbers(table, "timestamp")
    if not (np.diff(seconds) > 0).all():
        step = int(np.diff(seconds).argmin())
        raise BadEpisode(
            f"its timestamps do not increase: {seconds[step]:.3f} s in step {step}, "
            f"{seconds[step + 1]:.3f} s in the next"
        )
    return seconds


def _actions(table: Any) -> np.ndarray:
    """float32 [N, A]; an action of one number may be stored without a list."""
    column = next(name for name in ACTIONS if name in table.column_names)
    actions = numbers(table, column).astype(np.float32)
    return actions[:, None] if actions.ndim == 1 else actions


def _check_constant(texts: Sequence[str]) -> None:
    for step in range(1, len(texts)):
        if texts[step] != texts[0]:
            raise BadEpisode(
                f"it changes its instruction at step {step}, from {texts[0]!r} to {texts[step]!r}, "
                "and an episode has one: split it there"
            )


def _is_depth(feature: dict[str, Any]) -> bool:
    """What LeRobot's recorders say, in one of the places where they do."""
    known = [feature, feature.get("info"), feature.get("video_info")]
    keys = ("is_depth_map", "video.is_depth_map")
    return any(bool(d.get(key)) for d in known if isinstance(d, dict) for key in keys)


def _has_colors(camera: str, feature: dict[str, Any]) -> bool:
    """Neither the name nor the shape tells that these are no RGB pictures."""
    shape, names = feature.get("shape"), feature.get("names")
    channels = 3
    if isinstance(shape, list) and len(shape) == 3:
        places = [n for n, name in enumerate(names or []) if str(name).startswith("channel")]
        channels = shape[places[0]] if places else min(shape[0], shape[-1])
    return channels in (3, 4) and not NO_COLORS.search(camera.lower())
