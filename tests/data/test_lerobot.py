"""LeRobot datasets as people have them: which picture and which instruction belong to a step."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.lerobot_sets import (
    CAMERA,
    DATA_PATH,
    EPISODES_PATH,
    FPS,
    RGB,
    VIDEO_PATH,
    picture,
    png,
    shown,
    write_set,
    write_table,
    write_video,
)
from wmpo_jax.data import video
from wmpo_jax.data.byte_cache import ByteCache
from wmpo_jax.data.dataset import open_dataset
from wmpo_jax.data.episodes import BadEpisode, ReadOptions
from wmpo_jax.data.lerobot import LeRobotSource
from wmpo_jax.data.loading import Windows, WindowSpec
from wmpo_jax.runtime.errors import UserError

BEGIN = f"videos/{CAMERA}/from_timestamp"


def assert_right(root: Path, camera: str = "", **options: Any) -> LeRobotSource:
    """Every step's picture, alone as in a window, shows the number that its action begins with."""
    source = LeRobotSource(root, ReadOptions(camera=camera, **options))
    for index in range(len(source)):
        for step, action in enumerate(source.info(index).actions_NA):
            assert shown(source.frames(index, np.array([step]))) == [int(action[0])]
    return source


def why(root: Path, index: int = 0, **options: Any) -> str:
    """The reason why an episode is bad."""
    source = LeRobotSource(root, ReadOptions(**options))
    with pytest.raises(BadEpisode) as caught:
        source.frames(index, np.arange(source.info(index).num_frames))
    return str(caught.value)


def test_rows_come_in_the_order_of_frame_index(tmp_path):
    mixed = [4, 0, 11, 2, 7, 1, 6, 3, 10, 5, 8, 9]

    def shuffled(columns):
        return {name: [values[i] for i in mixed] for name, values in columns.items()}

    source = assert_right(write_set(tmp_path / "a", table=shuffled))
    assert source.info(1).actions_NA[:, 0].tolist() == [6, 7, 8, 9, 10, 11]

    def by_time(columns):
        columns = shuffled(columns)
        del columns["frame_index"]
        return columns

    assert_right(write_set(tmp_path / "b", table=by_time))


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("frame_index", [0, 1, 2, 2, 4, 5], "frame_index 2 in two rows"),
        ("frame_index", [0, 1, 2, 4, 5, 6], "no row between frame_index 2 and 4"),
        ("frame_index", [0, 1, None, 3, 4, 5], "frame_index has no number in row 2"),
        ("timestamp", [0.0, 0.1, 0.2, 0.2, 0.4, 0.5], "do not increase: 0.200 s in step 2"),
        ("timestamp", [0.0, 0.1, float("nan"), 0.3, 0.4, 0.5], "no number in row 2"),
        ("timestamp", [9.0, 9.1, 9.2, 9.3, 9.4, 9.5], "no frame at 9.000 s: the nearest is at 0.5"),
        ("timestamp", [0.0, 0.1, 0.2, 0.35, 0.4, 0.5], "no frame at 0.350 s.* 0.50 of a frame"),
    ],
)
def test_rows_that_contradict_each_other_or_the_video(tmp_path, column, values, reason):
    write_set(tmp_path, [6], table=lambda columns: {**columns, column: values})
    with pytest.raises(BadEpisode, match=reason):
        assert_right(tmp_path)


def test_a_table_and_a_video_with_a_clock_of_their_own(tmp_path):
    """28.6 pictures a second with jitter, where info.json says another rate."""
    seconds = np.cumsum(np.random.default_rng(0).uniform(0.9, 1.2, 40)) / FPS
    seconds = np.round((seconds - seconds[0]) * 90_000) / 90_000
    stamps = np.concatenate([seconds[:20], seconds[20:] - seconds[20]]).tolist()
    write_set(
        tmp_path,
        [20, 20],
        table=lambda columns: {**columns, "timestamp": stamps},
        rows=lambda rows: [{**r, BEGIN: float(seconds[20 * r["episode_index"]])} for r in rows],
    )
    write_video(tmp_path / VIDEO_PATH.format(CAMERA), range(40), seconds)
    assert_right(tmp_path)


@pytest.mark.parametrize("drift", [0.0, 0.3])
def test_the_nearest_frame_is_taken(tmp_path, drift):
    """The first within half a period would be the one before."""
    moved = {1: 6 - drift, 0: 0.0}
    write_set(
        tmp_path, rows=lambda rows: [{**r, BEGIN: moved[r["episode_index"]] / FPS} for r in rows]
    )
    assert_right(tmp_path)


@pytest.mark.parametrize(
    ("drift", "frame", "apart"), [(-0.6, 5, "0.6"), (-1, 5, "1.0"), (2, 8, "2.0")]
)
def test_an_episode_that_begins_elsewhere_is_named(tmp_path, drift, frame, apart):
    def moved(rows):
        return [rows[0], {**rows[1], BEGIN: (6 + drift) / FPS}, rows[2]]

    write_set(tmp_path, [6, 6, 6], rows=moved)
    reason = why(tmp_path, 1)
    assert f"at {(6 + drift) / FPS:.3f} s of its video (frame {frame})" in reason
    assert f"at 0.600 s (frame 6), {apart} frames apart" in reason
    with pytest.warns(UserWarning, match="skipped 1 bad of 3"):
        assert [e.index for e in open_dataset(tmp_path, on_bad="skip").episodes] == [0, 2]


def test_two_episodes_that_claim_the_same_frames(tmp_path):
    """Of a video with more frames than the tables have, counting says nothing."""
    write_set(tmp_path, rows=lambda rows: [rows[0], {**rows[1], BEGIN: 0.4}])
    write_video(tmp_path / VIDEO_PATH.format(CAMERA), range(20), np.arange(20) / FPS)
    assert "(frame 4), and the episode before it takes the frames to 5" in why(tmp_path, 1)


def test_each_row_names_its_instruction(tmp_path):
    """The episodes' own list has them in no order."""

    def two(columns):
        return {**columns, "task_index": [1] * 6 + [0] * 6}

    def listed(rows):
        return [{**row, "tasks": ["open", "close"]} for row in rows]

    write_set(tmp_path, table=two, rows=listed, tasks=["open", "close"])
    source = assert_right(tmp_path)
    assert [source.info(index).instruction for index in (0, 1)] == ["close", "open"]


def test_an_instruction_that_changes_within_an_episode(tmp_path):
    def changing(columns):
        return {**columns, "task_index": [0] * 4 + [1] * 8}

    write_set(tmp_path / "a", table=changing, tasks=["open", "close"])
    assert "changes its instruction at step 4, from 'open' to 'close'" in why(tmp_path / "a")
    # Two numbers of one text are one instruction.
    assert_right(write_set(tmp_path / "b", table=changing, tasks=["open", "open"]))


def test_lost_tasks_are_no_empty_instruction(tmp_path):
    write_set(tmp_path / "a", tasks=None)
    assert "has the task_index 0, and meta/tasks.parquet is missing" in why(tmp_path / "a")
    given = assert_right(tmp_path / "a", instruction="wipe")
    assert given.info(0).instruction == "wipe"
    write_set(
        tmp_path / "b", tasks=None, rows=lambda rows: [{**r, "tasks": ["sort"]} for r in rows]
    )
    assert assert_right(tmp_path / "b").info(0).instruction == "sort"
    write_set(tmp_path / "c", table=lambda columns: {**columns, "task_index": [3] * 12})
    assert "task_index 3, and meta/tasks.parquet does not list it" in why(tmp_path / "c")


def test_a_number_of_two_tasks_means_neither(tmp_path):
    root = write_set(tmp_path)
    tasks = pa.table({"task_index": [0, 1, 0], "task": ["open", "close", "wipe"]})
    write_table(root / "meta/tasks.parquet", tasks)
    with pytest.raises(UserError, match=r"tasks\.parquet lists the task_index 0 twice"):
        open_dataset(root)


def test_text_that_is_not_utf8_spoils_its_own_episodes(tmp_path):
    def second(columns):
        return {**columns, "task_index": [0] * 6 + [1] * 6}

    latin = pa.array([b"go", "W\xfcrfel".encode("latin-1")])
    for number, column in enumerate([latin, pa.Array.from_buffers(pa.utf8(), 2, latin.buffers())]):
        root = write_set(tmp_path / str(number), table=second)
        tasks = pa.table({"task_index": [0, 1], "task": column})
        write_table(root / "meta/tasks.parquet", tasks)
        assert "is not UTF-8 text" in why(root, 1)
        assert LeRobotSource(root, ReadOptions()).info(0).instruction == "go"


@pytest.mark.parametrize("nothing", [None, float("nan")])
@pytest.mark.parametrize("key", [BEGIN, "data/file_index", f"videos/{CAMERA}/chunk_index"])
def test_a_missing_place_spoils_its_own_episode(tmp_path, nothing, key):
    write_set(
        tmp_path,
        rows=lambda rows: [{**rows[0], key: nothing}, {**rows[1], key: float(rows[1][key])}],
    )
    with pytest.raises(UserError, match=f"episode 0: meta/episodes has (None|nan) for its {key}"):
        open_dataset(tmp_path)
    with pytest.warns(UserWarning, match="skipped 1 bad of 2"):
        assert [e.index for e in open_dataset(tmp_path, on_bad="skip").episodes] == [1]


def test_depth_is_never_taken_for_color(tmp_path):
    depth, wrist = "observation.images.a", "observation.images.wrist"
    flags = [{"info": {"video.is_depth_map": True}}, {"video_info": {"is_depth_map": True}}]
    features = {
        depth: {**RGB, **flags[0]},
        "observation.images.b": {**RGB, **flags[1]},
        "observation.images.depth": RGB,
        "observation.images.gray": {**RGB, "shape": [1, 64, 64], "names": ["channel", "h", "w"]},
        wrist: RGB,
        CAMERA: RGB,
    }
    source = assert_right(write_set(tmp_path / "set", features=features))
    assert source.info(0).camera == CAMERA
    assert f"its camera {depth} is a depth map" in why(tmp_path / "set", camera=depth)
    write_set(tmp_path / "only", features={depth: features[depth]})
    assert "it has no camera with colors" in why(tmp_path / "only")


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx265", {"x265-params": "keyint=12:log-level=none:pools=1"}),  # open groups
        ("libx265", {"g": "3", "x265-params": "log-level=none:pools=1"}),
        ("libx264", {"g": "30", "bf": "3", "x264-params": "open-gop=1"}),
        ("libvpx-vp9", {"g": "40", "crf": "20", "cpu-used": "8"}),
    ],
)
def test_windows_in_any_order_are_those_of_the_whole(tmp_path, codec, options):
    write_set(tmp_path, [33, 40])
    seconds = np.arange(73) / FPS
    write_video(tmp_path / VIDEO_PATH.format(CAMERA), range(73), seconds, codec, options)
    assert_right(tmp_path)


def test_times_far_from_each_other_are_sought_one_by_one(tmp_path):
    source = LeRobotSource(write_set(tmp_path, [60]), ReadOptions())
    assert shown(source.frames(0, np.array([0, 1, 58, 59]))) == [0, 1, 58, 59]


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1000\n"


@pytest.mark.parametrize(
    "file", [VIDEO_PATH.format(CAMERA), DATA_PATH.format(0), EPISODES_PATH, "meta/info.json"]
)
def test_a_clone_without_git_lfs_is_named(tmp_path, file):
    (write_set(tmp_path) / file).write_text(POINTER)
    with pytest.raises(UserError, match=r"is a Git LFS pointer, not the file.* git lfs pull"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("rename", ["action", "actions"])
def test_actions_of_one_number_and_of_openpi(tmp_path, rename):
    def scalar(columns):
        actions = [action[0] for action in columns.pop("action")]
        return {**columns, rename: actions}

    source = assert_right(write_set(tmp_path, table=scalar))
    assert source.info(0).actions_NA.shape == (6, 1)


def test_columns_that_are_missing_are_named_beside_those_there(tmp_path):
    write_set(tmp_path / "a", table=lambda columns: {"state": columns.pop("action"), **columns})
    assert "no column action (it has: state, timestamp" in why(tmp_path / "a")
    write_set(tmp_path / "b", table=lambda columns: {"x": columns.pop("episode_index"), **columns})
    assert "no rows by episode_index (it has: x, action" in why(tmp_path / "b")


IMAGE = {CAMERA: {**RGB, "dtype": "image"}}


def with_pictures(root: Path, cell: Any) -> Path:
    """Pictures in the table, one `cell(number)` per step."""

    def table(columns):
        return {**columns, CAMERA: [cell(number) for number in range(12)]}

    return write_set(root, table=table, features=IMAGE, video=False)


def test_pictures_in_the_table_and_beside_it(tmp_path):
    assert_right(with_pictures(tmp_path / "a", lambda n: {"bytes": png(n), "path": f"{n}.png"}))
    assert_right(with_pictures(tmp_path / "bytes", png))
    for name, prefix in (("b", ""), ("c", f"{tmp_path}/c/")):
        (tmp_path / name / "images").mkdir(parents=True)
        for number in range(12):
            (tmp_path / name / f"images/{number}.png").write_bytes(png(number))
        files = [f"{prefix}images/{number}.png" for number in range(12)]
        root = with_pictures(
            tmp_path / name, lambda n, files=files: {"bytes": None, "path": files[n]}
        )
        assert_right(root)


def test_a_snapshot_of_links(tmp_path):
    """As the Hub's library stores it."""
    root = with_pictures(tmp_path / "set", lambda n: {"bytes": None, "path": f"images/{n}.png"})
    for number in range(12):
        (tmp_path / f"blob{number}").write_bytes(png(number))
        (root / "images").mkdir(exist_ok=True)
        (root / f"images/{number}.png").symlink_to(tmp_path / f"blob{number}")
    assert_right(root)


def test_an_episode_listed_twice_or_without_steps(tmp_path):
    write_set(tmp_path / "a", rows=lambda rows: [rows[0], rows[0]])
    with pytest.raises(UserError, match="lists episode 0 twice"):
        LeRobotSource(tmp_path / "a", ReadOptions())
    empty = {"episode_index": 2, "length": 0}
    write_set(tmp_path / "b", rows=lambda rows: [*rows, {**rows[1], **empty}])
    with pytest.warns(UserWarning, match="it has no steps by meta/episodes"):
        assert len(open_dataset(tmp_path / "b", on_bad="skip").episodes) == 2


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ({"bytes": None, "path": "images/3.png"}, "the file images/3.png is missing"),
        ({"bytes": None, "path": "/home/me/3.png"}, "outside the dataset (/home/me/3.png)"),
        ({"bytes": b"no picture", "path": None}, "a damaged picture at step 0"),
        ({"bytes": None, "path": None}, "where an encoded picture belongs"),
        (picture(3)[:1, :1].tolist(), "where an encoded picture belongs"),
    ],
)
def test_pictures_that_are_not_there(tmp_path, cell, reason):
    assert reason in why(with_pictures(tmp_path, lambda _: cell))


def test_only_the_row_groups_of_an_episode_are_read(tmp_path, monkeypatch):
    """And of their columns only those in use, each once."""
    with_pictures(tmp_path, lambda n: {"bytes": png(n), "path": None})
    file = tmp_path / DATA_PATH.format(0)
    write_table(file, pq.read_table(file), row_group_size=4)
    read, original = [], pq.ParquetFile.read_row_group

    def record(self, group, columns, **options):
        read.append((group, tuple(columns)[-1]))
        return original(self, group, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", record)
    source = LeRobotSource(tmp_path, ReadOptions())
    for _ in range(2):
        assert shown(source.frames(1, np.array([1, 4]))) == [7, 10]
    assert sorted(read) == [(1, CAMERA), (1, "task_index"), (2, CAMERA), (2, "task_index")]


def test_a_table_that_is_written_anew_is_read_anew(tmp_path):
    with_pictures(tmp_path, lambda n: {"bytes": png(n), "path": None})
    assert_right(tmp_path)
    with_pictures(tmp_path, lambda n: {"bytes": png(n + 100), "path": None})
    source = LeRobotSource(tmp_path, ReadOptions())
    assert shown(source.frames(0, np.array([0, 1]))) == [100, 101]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"codebase_version": "v2.1"}, "lerobot.scripts.convert_dataset_v21_to_v30 --repo-id=set"),
        ({"codebase_version": "v1.6"}, "version v1.6 and v3.0 is read"),
        ({"fps": None}, "the fps None"),
        ({"fps": 0}, "the fps 0"),
        ({"features": []}, "features that are not objects"),
        ({"data_path": "data/{episode}.parquet"}, "its fields should be chunk_index, file_index"),
    ],
)
def test_facts_that_cannot_be(tmp_path, change, sentence):
    file = write_set(tmp_path / "set") / "meta/info.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(UserError) as caught:
        LeRobotSource(tmp_path / "set", ReadOptions())
    assert sentence in str(caught.value)
    assert str(caught.value).count(str(tmp_path)) == 1


@pytest.mark.parametrize("content", [b'{"fps": ', b'{"robot": "W\xfcrfel"}', b"[]"])
def test_facts_that_are_no_json(tmp_path, content):
    (write_set(tmp_path) / "meta/info.json").write_bytes(content)
    with pytest.raises(UserError, match=r"info.json is not (JSON|a JSON object).*: copy it again"):
        LeRobotSource(tmp_path, ReadOptions())


def test_verification_reads_windows(tmp_path, monkeypatch):
    """Each begins with a seek of its own, as in training."""
    lengths, original = [], video.read_frames

    def record(path, seconds, fps):
        lengths.append(len(seconds))
        return original(path, seconds, fps)

    monkeypatch.setattr(video, "read_frames", record)
    open_dataset(write_set(tmp_path, [30, 21]), verify="all")
    assert (sum(lengths), max(lengths)) == (51, 8)


def test_a_cache_holds_its_budget_and_loads_once():
    cache, loaded = ByteCache(100), []

    def load(name, size):
        def work():
            loaded.append(name)
            return np.zeros(size, np.uint8)

        return cache.get(name, work)

    for name, size in [("a", 60), ("b", 30), ("a", 60), ("c", 50), ("a", 60), ("b", 30)]:
        assert load(name, size).nbytes == size
        assert cache.nbytes <= 100
    assert loaded == ["a", "b", "c", "a", "b"]
    assert load("large", 500).nbytes == 500
    with pytest.raises(ZeroDivisionError):
        cache.get("d", lambda: 1 / 0)
    assert load("d", 1).nbytes == 1


def test_threads_that_want_one_table_read_it_once():
    cache, loads = ByteCache(100), []

    def load():
        loads.append(1)
        time.sleep(0.05)
        return np.zeros(8, np.uint8)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: cache.get("x", load), range(8)))
    assert (len(loads), len(found)) == (1, 8)


def test_windows_of_training_have_the_rows_pictures(tmp_path):
    dataset = open_dataset(write_set(tmp_path, [9, 8]))
    windows = Windows(dataset, WindowSpec(history=2, chunk=3, future=True))
    for number in range(len(windows)):
        frames, actions, instruction, _ = windows.read(number)
        assert shown(frames[1:4]) == actions[:, 0].astype(int).tolist()
        assert instruction == "go"
