"""Episodes as a LeRobot dataset of version 3: tables through pyarrow, one video through PyAV."""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wmpo_jax.data import video
from wmpo_jax.data.episodes import Episode, EpisodeInfo
from wmpo_jax.data.extras import require
from wmpo_jax.data.lerobot_meta import DATA_PATH, VIDEO_PATH
from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import new_folder, save_json

VERSION = "v3.0"
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"


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
