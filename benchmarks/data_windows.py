"""Windows per second out of a LeRobot dataset, as training reads them: in any order.

    python benchmarks/data_windows.py                # six tables of 100 MB, LeRobot's default size

Two cameras of 224 x 224 pixels, of which one is read: as PNG in the tables (of noise, which no
codec makes smaller), and as a video. A window is one picture and four actions. CPU seconds are
counted, those of all threads, so that other programs on the machine hardly matter. The last column
is how many times as long it takes as decoding and resizing the same pictures out of memory.
"""

import argparse
import io
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from wmpo_jax.runtime import environment

SIDE, SIZE = 224, 32  # pixels stored and wanted
STEPS, PER_TABLE, FPS = 40, 8, 10  # of an episode, episodes in a table
BATCH, BATCHES = 16, 12
CAMERAS = ("image", "wrist_image")
ROW_GROUP = 100  # rows, what Hugging Face's library writes when there are pictures
SMALL = 60_000_000  # bytes: one table's pictures of one camera, and no more


def main() -> None:
    environment.prepare()
    from wmpo_jax.data import lerobot_tables
    from wmpo_jax.data.byte_cache import ByteCache

    parser = argparse.ArgumentParser()
    parser.add_argument("--tables", type=int, default=6)
    flags = parser.parse_args()
    files = noise_files()
    print(f"{'layout':44} {'MB':>5} {'windows':>8} {'per CPU s':>10} {'x decoding':>11}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, rows, budget in (
            ("pictures, a table is one row group", None, lerobot_tables.CACHE_BYTES),
            (f"pictures, row groups of {ROW_GROUP}", ROW_GROUP, lerobot_tables.CACHE_BYTES),
            (f"the same, cache of {SMALL // 10**6} MB", ROW_GROUP, SMALL),
        ):
            lerobot_tables.CACHE = ByteCache(budget)
            write_tables(root / name, files, flags.tables, rows)
            report(name, root / name, decoding_alone(files))
        write_video(root / "video")
        report("video, H.264, a keyframe every 2", root / "video", None)


def noise_files() -> list[bytes]:
    rng, files = np.random.default_rng(0), []
    for _ in range(8):
        file = io.BytesIO()
        picture = Image.fromarray(rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8))
        picture.save(file, "PNG", compress_level=1)
        files.append(file.getvalue())
    return files


def write_tables(root: Path, files: list[bytes], tables: int, row_group: int | None) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, count = np.random.default_rng(1), STEPS * PER_TABLE
    episodes = []
    for table in range(tables):
        numbers = np.repeat(np.arange(PER_TABLE) + table * PER_TABLE, STEPS)
        steps = np.tile(np.arange(STEPS), PER_TABLE)
        columns = {
            "action": rng.uniform(-1, 1, (count, 7)).tolist(),
            "timestamp": steps / FPS,
            "frame_index": steps,
            "episode_index": numbers,
            "task_index": np.zeros(count, int),
        }
        for camera in CAMERAS:
            # A few bytes of its own behind each picture: equal cells would be stored once.
            cells = [{"bytes": files[n % 8] + rng.bytes(8), "path": None} for n in range(count)]
            columns[camera] = cells
        file = root / f"data/chunk-000/file-{table:03d}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), file, row_group_size=row_group)
        for number in np.unique(numbers).tolist():
            place = {"data/chunk_index": 0, "data/file_index": table}
            episodes.append({"episode_index": number, "length": STEPS, **place})
    (root / "meta/episodes").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(episodes), root / "meta/episodes/file-000.parquet")
    pq.write_table(pa.table({"task_index": [0], "task": ["go"]}), root / "meta/tasks.parquet")
    features = {name: {"dtype": "image", "shape": [SIDE, SIDE, 3]} for name in CAMERAS}
    facts = {"codebase_version": "v3.0", "fps": FPS, "features": features}
    (root / "meta/info.json").write_text(json.dumps(facts))


def write_video(root: Path) -> None:
    from wmpo_jax.data.episodes import Episode, EpisodeInfo
    from wmpo_jax.data.lerobot_writing import write_lerobot

    rng = np.random.default_rng(2)
    small = rng.integers(0, 255, (STEPS, SIDE // 8, SIDE // 8, 3), np.uint8)
    frames = small.repeat(8, axis=1).repeat(8, axis=2)
    actions = rng.uniform(-1, 1, (STEPS, 7)).astype(np.float32)
    info = EpisodeInfo("", actions, STEPS, "go", True, STEPS, "image", FPS, "noise")
    write_lerobot(root, (Episode(info, frames) for _ in range(PER_TABLE)))


def decoding_alone(files: list[bytes]) -> float:
    """CPU seconds per picture of the work that no reader can avoid."""
    from wmpo_jax.data.jpeg import decode_picture
    from wmpo_jax.data.loading import resized

    def work(number: int) -> None:
        for _ in range(BATCH):
            resized(decode_picture(files[number % 8])[None], SIZE)

    return cpu_seconds(work) / BATCH


def report(name: str, root: Path, alone: float | None) -> None:
    from wmpo_jax.data.loading import WindowLoader, WindowSpec
    from wmpo_jax.data.mixture import open_mixture

    mixture = open_mixture(root, verify="ends")
    spec = WindowSpec(history=1, chunk=4, future=False)
    loader = WindowLoader(mixture, spec, BATCH, 0, image_size=SIZE, clip=True)
    for step in range(BATCHES):  # what is read once and kept
        loader.batch(step)
    seconds = cpu_seconds(lambda step: loader.batch(BATCHES + step)) / BATCH
    megabytes = sum(file.stat().st_size for file in root.rglob("*") if file.is_file()) / 1e6
    ratio = f"{seconds / alone:11.1f}" if alone else f"{'':>11}"
    print(f"{name:44} {megabytes:5.0f} {BATCH * BATCHES:8} {1 / seconds:10.0f} {ratio}", flush=True)


def cpu_seconds(work: Callable[[int], object]) -> float:
    """Of one call, the mean of `BATCHES`."""
    begin = time.process_time()
    for step in range(BATCHES):
        work(step)
    return (time.process_time() - begin) / BATCHES


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of actions that are noise
    main()
