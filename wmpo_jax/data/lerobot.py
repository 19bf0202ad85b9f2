"""LeRobot datasets, version 3: parquet tables of steps and episodes, and mp4 videos.

    meta/info.json, meta/tasks.parquet, meta/stats.json, meta/episodes/chunk-*/file-*.parquet
    data/chunk-*/file-*.parquet               one row per step, many episodes in a file
    videos/<camera>/chunk-*/file-*.mp4        likewise, one episode after the other

Cameras whose pictures lie in the data table itself are read too.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from wmpo_jax.data import video
from wmpo_jax.data.episodes import (
    BadEpisode,
    Episode,
    EpisodeInfo,
    ReadOptions,
    outcome,
    pick_camera,
)
from wmpo_jax.data.extras import require
from wmpo_jax.data.jpeg import decode_picture
from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import load_json, new_folder, save_json

VERSION = "v3.0"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
# Without these nothing can be read.
FACTS = {"fps", "features"}
COLUMNS = {"episode_index", "length", "data/chunk_index", "data/file_index"}
PLACE = ("chunk_index", "file_index", "from_timestamp")  # of an episode's video
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"


class LeRobotSource:
    """`EpisodeSource` of a dataset's folder."""

    def __init__(self, path: Path, options: ReadOptions) -> None:
        self.name = path.name
        self.files: Sequence[Path] = sorted(f for f in path.rglob("*") if f.is_file())
        self._path, self._options = path, options
        self._facts = load_json(path / "meta" / "info.json")
        version = str(self._facts.get("codebase_version"))
        if not version.startswith("v3"):
            raise UserError(
                f"{path} is a LeRobot dataset of version {version} and {VERSION} is read: convert "
                "it with LeRobot's own lerobot.datasets.v30.convert_dataset_v21_to_v30."
            )
        _check_keys(self._facts, FACTS, path / "meta/info.json")
        self._tasks = self._read_tasks()
        tables = sorted((path / "meta" / "episodes").rglob("*.parquet"))
        self._rows = [row for table in tables for row in _read_parquet(table).to_pylist()]
        if not self._rows:
            raise UserError(f"{path} lists no episodes in meta/episodes: copy the dataset again.")
        for row in self._rows:
            _check_keys(row, COLUMNS, path / "meta/episodes")
        # Two tables at a time: files hold about 100 MB, and windows come in any order.
        self._table = lru_cache(maxsize=2)(_read_parquet)

    def __len__(self) -> int:
        return len(self._rows)

    def info(self, index: int) -> EpisodeInfo:
        row, steps = self._rows[index], self._steps(index)
        if "action" not in steps.column_names:
            raise BadEpisode(f"{self._path} episode {index} has no column action")
        actions = _matrix(steps["action"])
        success, finish_step = self._outcome(row, steps, len(actions))
        return EpisodeInfo(
            name=str(row["episode_index"]),
            actions_NA=actions,
            num_frames=len(actions),
            instruction=self._instruction(row, steps) or self._options.instruction,
            success=success,
            finish_step=finish_step,
            camera=self._camera(index),
            fps=float(self._facts["fps"]),
            source=row.get("source") or self.name,
            seed=row.get("seed"),
        )

    def frames(self, index: int, times_T: np.ndarray) -> np.ndarray:
        camera, row = self._camera(index), self._rows[index]
        if self._facts["features"][camera]["dtype"] == "image":
            frames = _decode_images(self._steps(index)[camera], times_T, f"{self._path} {index}")
        else:
            columns = {f"videos/{camera}/{key}" for key in PLACE} - row.keys()
            if columns:
                raise BadEpisode(f"{self._path} episode {index} lacks {', '.join(sorted(columns))}")
            template = self._facts.get("video_path") or VIDEO_PATH
            file = self._path / template.format(video_key=camera, **_place(row, f"videos/{camera}"))
            fps = float(self._facts["fps"])
            begin = float(row[f"videos/{camera}/from_timestamp"])
            frames = video.read_frames(file, begin + np.asarray(times_T) / fps, fps)
        return frames[:, ::-1, ::-1] if self._options.rotate else frames

    def _steps(self, index: int) -> Any:
        """The rows of one episode, a pyarrow Table."""
        row = self._rows[index]
        file = self._path / (self._facts.get("data_path") or DATA_PATH).format(
            **_place(row, "data")
        )
        try:
            table = self._table(file)
        except UserError as error:
            raise BadEpisode(str(error).rstrip(".")) from error
        compute = require("pyarrow.compute")
        steps = table.filter(compute.equal(table["episode_index"], row["episode_index"]))
        if len(steps) != row["length"]:
            raise BadEpisode(
                f"{file} holds {len(steps)} of the {row['length']} steps of episode {index}"
            )
        return steps

    def _camera(self, index: int) -> str:
        features = self._facts["features"].items()
        cameras = [key for key, feature in features if feature["dtype"] in ("video", "image")]
        return pick_camera(cameras, self._options.camera, f"{self._path} episode {index}")

    def _instruction(self, row: dict[str, Any], steps: Any) -> str:
        if row.get("tasks"):
            return str(row["tasks"][0])
        return self._tasks.get(steps["task_index"][0].as_py(), "")

    def _outcome(self, row: dict[str, Any], steps: Any, count: int) -> tuple[bool | None, int]:
        if row.get("success") is not None:
            return bool(row["success"]), int(row.get("finish_step", count))
        for column in ("next.success", "next.reward"):
            if column in steps.column_names:
                return outcome(_matrix(steps[column]).reshape(-1), count)
        return None, count

    def _read_tasks(self) -> dict[int, str]:
        """The words by task_index; pandas keeps them in the index, which has no fixed name."""
        file = self._path / "meta" / "tasks.parquet"
        if not file.exists():
            return {}
        rows = _read_parquet(file).to_pylist()
        return {
            row["task_index"]: next(str(v) for k, v in row.items() if k != "task_index")
            for row in rows
        }


def _check_keys(found: dict[str, Any], wanted: set[str], where: Path) -> None:
    if wanted - found.keys():
        lacking = ", ".join(sorted(wanted - found.keys()))
        raise UserError(f"{where} lacks {lacking}: copy the dataset again.")


def _read_parquet(path: Path) -> Any:
    arrow, parquet = require("pyarrow"), require("pyarrow.parquet")
    try:
        return parquet.read_table(path)
    except (OSError, arrow.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be read ({reason}): copy it again.") from error


def _matrix(column: Any) -> np.ndarray:
    """float32 [N, A] of a column of lists, [N] of one of numbers."""
    rows = column.to_pylist()
    try:
        return np.asarray(rows, np.float32)
    except (ValueError, TypeError) as error:
        raise BadEpisode(f"a column of numbers is damaged ({error})") from error


def _place(row: dict[str, Any], what: str) -> dict[str, int]:
    return {key: int(row[f"{what}/{key}"]) for key in ("chunk_index", "file_index")}


def _decode_images(column: Any, times_T: np.ndarray, where: str) -> np.ndarray:
    try:
        files = [column[int(time)].as_py()["bytes"] for time in times_T]
        return np.stack([decode_picture(file) for file in files])
    except (TypeError, KeyError, ValueError) as error:
        raise BadEpisode(f"{where} has a damaged picture ({error})") from error


def write_lerobot(path: Path, episodes: Iterable[Episode]) -> int:
    """Writes a new folder, whole or not at all; returns the episodes in it.

    Videos are H.264 and lose a little. The format has as many frames as actions: a frame after the
    last action is dropped. Its frame rate is a whole number, that of the first episode rounded.
    """
    iterator = iter(episodes)
    first = next(iterator, None)
    if first is None:
        raise UserError("A LeRobot dataset without episodes cannot be written.")
    camera, fps = first.info.camera, max(round(first.info.fps), 1)
    if not camera.startswith("observation."):
        camera = f"observation.images.{camera}"
    infos: list[EpisodeInfo] = []

    def videos() -> Iterator[np.ndarray]:
        for episode in itertools.chain([first], iterator):
            infos.append(episode.info)
            yield episode.frames_FHWC[: len(episode.info.actions_NA)]

    with new_folder(path) as folder:
        file = folder / VIDEO_PATH.format(video_key=camera, chunk_index=0, file_index=0)
        file.parent.mkdir(parents=True)
        video.write_frames(file, videos(), fps)
        _write_tables(folder, infos, camera, fps)
        facts = _facts(infos, camera, list(first.frames_FHWC.shape[1:]), fps)
        save_json(folder / "meta/info.json", facts)
    return len(infos)


def _tasks(infos: Sequence[EpisodeInfo]) -> list[str]:
    return sorted({info.instruction for info in infos})


def _episode_row(
    number: int, info: EpisodeInfo, begin: int, camera: str, fps: int
) -> dict[str, Any]:
    end = begin + len(info.actions_NA)
    return {
        "episode_index": number,
        "tasks": [info.instruction],
        "length": len(info.actions_NA),
        "data/chunk_index": 0,
        "data/file_index": 0,
        "dataset_from_index": begin,
        "dataset_to_index": end,
        f"videos/{camera}/chunk_index": 0,
        f"videos/{camera}/file_index": 0,
        f"videos/{camera}/from_timestamp": begin / fps,
        f"videos/{camera}/to_timestamp": end / fps,
        "success": info.success,
        "finish_step": info.finish_step,
        "source": info.source,
        "seed": info.seed,
    }


def _write_tables(folder: Path, infos: Sequence[EpisodeInfo], camera: str, fps: int) -> None:
    arrow, parquet = require("pyarrow"), require("pyarrow.parquet")
    tasks, lengths = _tasks(infos), [len(info.actions_NA) for info in infos]
    begins = np.cumsum([0, *lengths]).tolist()
    rows = [_episode_row(n, info, begins[n], camera, fps) for n, info in enumerate(infos)]
    steps = np.concatenate([np.arange(n) for n in lengths])
    actions_NA = np.concatenate([info.actions_NA for info in infos])
    table = {
        "action": list(actions_NA),
        "timestamp": (steps / fps).astype(np.float32),
        "frame_index": steps,
        "episode_index": np.repeat(np.arange(len(infos)), lengths),
        "index": np.arange(len(steps)),
        "task_index": np.repeat([tasks.index(info.instruction) for info in infos], lengths),
    }
    for name, content in (
        (DATA_PATH.format(chunk_index=0, file_index=0), arrow.table(table)),
        (EPISODES_PATH, arrow.Table.from_pylist(rows)),
        ("meta/tasks.parquet", _task_table(tasks)),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(content, folder / name)
    statistics = ActionStatistics.from_actions(actions_NA).to_json()
    del statistics["mask"]
    save_json(folder / "meta/stats.json", {"action": {**statistics, "count": [len(steps)]}})


def _task_table(tasks: list[str]) -> Any:
    """LeRobot reads it with pandas and finds a task by its row's name, hence the index."""
    columns: list[dict[str, Any]] = [
        {"name": "task_index", "pandas_type": "int64", "numpy_type": "int64"},
        {"name": "task", "pandas_type": "unicode", "numpy_type": "object"},
    ]
    for column in columns:
        column.update(field_name=column["name"], metadata=None)
    index = {"index_columns": ["task"], "column_indexes": [], "columns": columns}
    table = require("pyarrow").table({"task_index": range(len(tasks)), "task": tasks})
    return table.replace_schema_metadata({"pandas": json.dumps(index)})


def _facts(infos: Sequence[EpisodeInfo], camera: str, shape: list[int], fps: int) -> dict[str, Any]:
    total, scalar = sum(len(info.actions_NA) for info in infos), {"shape": [1], "names": None}
    width = infos[0].actions_NA.shape[1]
    integers = ("frame_index", "episode_index", "index", "task_index")
    return {
        "codebase_version": VERSION,
        "robot_type": None,
        "total_episodes": len(infos),
        "total_frames": total,
        "total_tasks": len(_tasks(infos)),
        "chunks_size": 1000,
        "fps": fps,
        "splits": {"train": f"0:{len(infos)}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": {
            "action": {"dtype": "float32", "shape": [width], "names": None},
            camera: {
                "dtype": "video",
                "shape": shape,
                "names": ["height", "width", "channels"],
            },
            "timestamp": {"dtype": "float32", **scalar},
            **{name: {"dtype": "int64", **scalar} for name in integers},
        },
    }
