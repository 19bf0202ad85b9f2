"""LeRobot datasets whose pictures show their own number, for tests that ask which picture came."""

import io
import json
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CAMERA = "observation.images.front"
SIDE, FPS = 64, 10
TICKS = 90_000  # per second, of the videos
VIDEO_PATH = "videos/{}/chunk-000/file-000.mp4"
DATA_PATH = "data/chunk-000/file-{:03d}.parquet"
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"
RGB = {"dtype": "video", "shape": [SIDE, SIDE, 3], "names": ["height", "width", "channels"]}


def picture(number: int) -> np.ndarray:
    """uint8 [64, 64, 3]: the eight bits of a number as black and white blocks."""
    bits = np.array([number >> bit & 1 for bit in range(8)], np.uint8).reshape(2, 4) * 255
    return np.repeat(bits.repeat(SIDE // 2, 0).repeat(SIDE // 4, 1)[..., None], 3, axis=2)


def shown(frames: np.ndarray) -> list[int]:
    """The number in each picture, whatever a codec did to it."""
    blocks = frames.reshape(-1, 2, SIDE // 2, 4, SIDE // 4, 3).mean(axis=(2, 4, 5)) > 127
    return (blocks.reshape(-1, 8) @ (1 << np.arange(8))).tolist()


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(number)).save(file, "PNG")
    return file.getvalue()


def write_video(
    path: Path,
    numbers: Iterable[int],
    seconds: Iterable[float],
    codec: str = "libx264",
    options: dict[str, str] | None = None,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(
            codec, rate=FPS, options=options or {"crf": "18", "g": "2"}
        )
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS)
        for number, second in zip(numbers, seconds, strict=True):
            frame = av.VideoFrame.from_ndarray(picture(number), "rgb24")
            frame.pts, frame.time_base = round(second * TICKS), Fraction(1, TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_set(
    root: Path,
    lengths: Sequence[int] = (6, 6),
    *,
    table: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    rows: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = list,
    tasks: Sequence[Any] | None = ("go",),
    features: dict[str, Any] | None = None,
    video: bool = True,
) -> Path:
    """Episodes one after the other; a step's action begins with the number in its picture.

    Args:
      table: may change the columns of data/, as a dict of lists.
      rows: may change the rows of meta/episodes.
      tasks: of meta/tasks.parquet, None for no such file.
    """
    total = sum(lengths)
    if video:
        write_video(root / VIDEO_PATH.format(CAMERA), range(total), np.arange(total) / FPS)
    steps = np.concatenate([np.arange(length) for length in lengths])
    columns = {
        "action": [[float(n), 0.5 * (n % 3)] for n in range(total)],
        "timestamp": (steps / FPS).astype(np.float32).tolist(),
        "frame_index": steps.tolist(),
        "episode_index": np.repeat(np.arange(len(lengths)), lengths).tolist(),
        "task_index": [0] * total,
    }
    write_table(root / DATA_PATH.format(0), pa.table(table(columns)))
    listed = rows([_row(n, lengths) for n in range(len(lengths))])
    write_table(root / EPISODES_PATH, pa.Table.from_pylist(listed))
    if tasks is not None:
        names = {"task_index": range(len(tasks)), "task": tasks}
        write_table(root / "meta/tasks.parquet", pa.table(names))
    facts = {"codebase_version": "v3.0", "fps": FPS, "features": features or {CAMERA: RGB}}
    (root / "meta/info.json").write_text(json.dumps(facts))
    return root


def write_table(path: Path, table: pa.Table, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)


def _row(number: int, lengths: Sequence[int]) -> dict[str, Any]:
    return {
        "episode_index": number,
        "length": lengths[number],
        "data/chunk_index": 0,
        "data/file_index": 0,
        f"videos/{CAMERA}/chunk_index": 0,
        f"videos/{CAMERA}/file_index": 0,
        f"videos/{CAMERA}/from_timestamp": sum(lengths[:number]) / FPS,
    }
