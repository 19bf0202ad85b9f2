"""Every format: our files come back, and files of the format's own library are understood."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from webdataset.compat import WebDataset
from webdataset.writer import TarWriter

from tests.data.conftest import make_episode, moving_square
from wmpo_jax.data.dataset import open_dataset
from wmpo_jax.data.episodes import Episode, ReadOptions, read_episode
from wmpo_jax.data.formats import WRITERS, open_source
from wmpo_jax.runtime.errors import UserError

# Largest mean difference of pixels, in levels, that a format's compression may make.
LOSS = {"webdataset": 0.0, "hdf5": 0.0, "lerobot": 5.0, "rlds": 5.0, "rlds_tfrecord": 5.0}
SUFFIX = {"webdataset": ".tar", "hdf5": ".hdf5"}


@pytest.fixture(scope="module")
def written(tmp_path_factory, episodes) -> dict[str, Path]:
    """The same episodes in every format."""
    folder = tmp_path_factory.mktemp("formats")
    paths = {}
    for name, write in WRITERS.items():
        paths[name] = folder / f"{name}{SUFFIX.get(name, '')}"
        assert write(paths[name], iter(episodes)) == len(episodes)
    return paths


@pytest.mark.parametrize("name", WRITERS)
def test_round_trip(written, episodes, name):
    source = open_source(written[name], ReadOptions())
    assert len(source) == len(episodes)
    for index, episode in enumerate(episodes):
        again = read_episode(source, index)
        _assert_same(again, episode, LOSS[name])
        # Only the tars keep the frame after the last action.
        assert again.info.num_frames - len(again.info.actions_NA) == (name == "webdataset")


def _assert_same(again: Episode, episode: Episode, loss: float) -> None:
    ours, theirs = again.info, episode.info
    np.testing.assert_array_equal(ours.actions_NA, theirs.actions_NA)
    for field in ("instruction", "success", "finish_step", "fps", "seed"):
        assert getattr(ours, field) == getattr(theirs, field), field
    assert ours.camera.endswith(theirs.camera)
    frames = episode.frames_FHWC[: ours.num_frames].astype(float)
    assert again.frames_FHWC.shape == frames.shape
    assert np.abs(again.frames_FHWC - frames).mean() <= loss


@pytest.mark.parametrize("name", WRITERS)
def test_single_frames_are_those_of_the_whole(written, name):
    source = open_source(written[name], ReadOptions())
    whole = read_episode(source, 2).frames_FHWC
    np.testing.assert_array_equal(source.frames(2, np.array([3, 4, 9])), whole[[3, 4, 9]])


@pytest.mark.parametrize("name", ["lerobot", "rlds"])
def test_a_folder_is_never_overwritten(written, episodes, name):
    with pytest.raises(UserError, match="exists already"):
        WRITERS[name](written[name], episodes)


@pytest.mark.parametrize("name", WRITERS)
def test_a_failed_writing_leaves_nothing(tmp_path, episodes, name):
    def breaking():
        yield episodes[0]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        WRITERS[name](tmp_path / f"half{SUFFIX.get(name, '')}", breaking())
    assert list(tmp_path.iterdir()) == []


def test_array_record_needs_no_tensorflow(written):
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "PathFinder.find_spec = lambda name, path=None, target=None: (\n"
        "    None if name.split('.')[0] == 'tensorflow' else find(name, path, target))\n"
        "from wmpo_jax.data.episodes import ReadOptions, read_episode\n"
        "from wmpo_jax.data.formats import open_source\n"
        "source = open_source(Path(sys.argv[1]), ReadOptions())\n"
        "print(read_episode(source, 1).frames_FHWC.shape)\n"
    )
    command = [sys.executable, "-c", program, str(written["rlds"])]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.stdout == "(11, 32, 32, 3)\n", result.stderr


def test_webdataset_library_reads_ours(written, episodes):
    library: Any = WebDataset(str(written["webdataset"]), shardshuffle=False)
    samples = list(library.decode())
    assert len(samples) == len(episodes)
    for sample, episode in zip(samples, episodes, strict=True):
        np.testing.assert_array_equal(sample["video.npy"], episode.frames_FHWC)
        np.testing.assert_array_equal(sample["action.npy"], episode.info.actions_NA)
        assert sample["meta.json"]["finish_step"] == episode.info.finish_step


def test_the_references_tar(tmp_path):
    """Padded after the finish, with arrays of no interest; written by the library."""
    frames = np.zeros((21, 32, 32, 3), np.uint8)
    frames[:13] = moving_square(12, 0)
    sample = {
        "__key__": "rollout_000001",
        "video.npy": frames,
        "action.npy": np.ones((20, 7), np.float32),
        "state_id.npy": np.zeros(1, np.uint8),
        "meta.json": {"complete": False, "finish_step": 12, "unique_id": "coffee_3"},
    }
    with TarWriter(str(tmp_path / "shard-000000.tar")) as sink:
        sink.write(sample)
        sink.write({**sample, "__key__": "rollout_000002", "meta.json": {"finish_step": 20}})
    source = open_source(tmp_path, ReadOptions(instruction="make coffee"))
    first = read_episode(source, 0)
    np.testing.assert_array_equal(first.frames_FHWC, frames[:13])
    assert first.info.actions_NA.shape == (12, 7)
    assert (first.info.success, first.info.finish_step) == (False, 12)
    assert (first.info.name, first.info.instruction) == ("coffee_3", "make coffee")
    assert source.info(1).success is True  # the reference's demonstrations do not say


def test_liberos_hdf5(tmp_path):
    """Upside down, two cameras, the words in the file's attributes; written by h5py."""
    frames = moving_square(11, 1)
    with h5py.File(tmp_path / "pick_up_the_bowl_demo.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["problem_info"] = json.dumps({"language_instruction": "pick up the bowl"})
        data.attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": 20}})
        for number in (0, 10, 2):
            demo = data.create_group(f"demo_{number}")
            demo["actions"] = np.full((12, 7), number, np.float64)
            demo["obs/eye_in_hand_rgb"] = frames // 2
            demo["obs/agentview_rgb"] = frames[:, ::-1, ::-1]
            demo["rewards"] = np.arange(12) == 11
    source = open_source(tmp_path, ReadOptions(rotate=True))
    assert [source.info(index).actions_NA[0, 0] for index in range(3)] == [0, 2, 10]
    episode = read_episode(source, 0)
    np.testing.assert_array_equal(episode.frames_FHWC, frames)
    assert episode.info.camera == "agentview_rgb"
    assert (episode.info.success, episode.info.finish_step) == (True, 12)
    assert episode.info.instruction == "pick up the bowl"
    wrist = open_source(tmp_path, ReadOptions(camera="eye_in_hand_rgb"))
    np.testing.assert_array_equal(read_episode(wrist, 0).frames_FHWC, frames // 2)


def test_lerobots_layout(tmp_path):
    """Two files of data and of AV1 video, tasks in a pandas index; through pyarrow and av."""
    lengths, fps = [9, 7, 8], 10
    key, rows = "observation.images.top", []
    videos = [moving_square(steps - 1, seed) for seed, steps in enumerate(lengths)]
    for number, steps in enumerate(lengths):
        shard, second = divmod(number, 2)
        rows.append(
            {
                "episode_index": number,
                "length": steps,
                "data/chunk_index": 0,
                "data/file_index": shard,
                f"videos/{key}/chunk_index": 0,
                f"videos/{key}/file_index": shard,
                f"videos/{key}/from_timestamp": lengths[0] / fps if second else 0.0,
            }
        )
    for shard, members in enumerate(([0, 1], [2])):
        table = {
            "action": [[float(n), float(t)] for n in members for t in range(lengths[n])],
            "episode_index": [n for n in members for _ in range(lengths[n])],
            "task_index": [n % 2 for n in members for _ in range(lengths[n])],
            "next.success": [t == 6 for n in members for t in range(lengths[n])],
        }
        _parquet(tmp_path / f"data/chunk-000/file-{shard:03d}.parquet", pa.table(table))
        file = tmp_path / f"videos/{key}/chunk-000/file-{shard:03d}.mp4"
        _av1(file, np.concatenate([videos[n] for n in members]), fps)
    _parquet(tmp_path / "meta/episodes/chunk-000/file-000.parquet", pa.Table.from_pylist(rows))
    tasks = pa.table({"task_index": [0, 1], "__index_level_0__": ["stack", "sort"]})
    _parquet(tmp_path / "meta/tasks.parquet", tasks)
    facts = {
        "codebase_version": "v3.0",
        "fps": fps,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {key: {"dtype": "video", "shape": [32, 32, 3]}},
    }
    (tmp_path / "meta/info.json").write_text(json.dumps(facts))

    source = open_source(tmp_path, ReadOptions())
    for number, steps in enumerate(lengths):
        episode = read_episode(source, number)
        np.testing.assert_array_equal(episode.info.actions_NA, [[number, t] for t in range(steps)])
        assert episode.info.instruction == ["stack", "sort"][number % 2]
        assert (episode.info.success, episode.info.finish_step) == (True, 7)
        expected = _doubled(videos[number]).astype(float)
        assert np.abs(episode.frames_FHWC - expected).mean() < 5


def test_lerobot_finds_its_tasks(written):
    """It reads them with pandas, and takes the words from the index."""
    schema = pq.read_schema(written["lerobot"] / "meta/tasks.parquet")
    assert json.loads(schema.metadata[b"pandas"])["index_columns"] == ["task"]


def _parquet(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def _av1(path: Path, frames: np.ndarray, fps: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libsvtav1", rate=fps, options={"g": "2", "crf": "20"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for frame in _doubled(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode(None))


def _doubled(frames: np.ndarray) -> np.ndarray:
    """64 pixels, the least that the encoder takes."""
    return frames.repeat(2, axis=1).repeat(2, axis=2)


def test_lerobots_pictures_in_the_table(tmp_path, episodes):
    from PIL import Image

    WRITERS["lerobot"](tmp_path / "set", episodes)
    file = tmp_path / "set/data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    frames = np.concatenate([e.frames_FHWC[:-1] for e in episodes])
    pictures = []
    for frame in frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "PNG")
        pictures.append({"bytes": buffer.getvalue(), "path": None})
    pq.write_table(table.append_column("observation.image", pa.array(pictures)), file)
    facts = json.loads((tmp_path / "set/meta/info.json").read_text())
    facts["features"]["observation.image"] = {"dtype": "image", "shape": [32, 32, 3]}
    (tmp_path / "set/meta/info.json").write_text(json.dumps(facts))
    source = open_source(tmp_path / "set", ReadOptions(camera="observation.image"))
    np.testing.assert_array_equal(read_episode(source, 4).frames_FHWC, episodes[4].frames_FHWC[:-1])


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_libero_rlds(tmp_path, file_format):
    """The features of OpenVLA's LIBERO datasets, written by tensorflow-datasets itself."""
    import tensorflow_datasets as tfds

    frames = moving_square(9, 3)
    actions = np.random.default_rng(0).uniform(-1, 1, (10, 7)).astype(np.float32)
    picture = tfds.features.Image(shape=(32, 32, 3), encoding_format="jpeg")
    observation = {
        "image": picture,
        "wrist_image": picture,
        "state": tfds.features.Tensor(shape=(8,), dtype=np.float32),
    }
    step = {
        "observation": observation,
        "action": tfds.features.Tensor(shape=(7,), dtype=np.float32),
        "reward": tfds.features.Scalar(dtype=np.float32),
        "language_instruction": tfds.features.Text(),
    }
    steps = [
        {
            "observation": {
                "image": frame,
                "wrist_image": 255 - frame,
                "state": np.zeros(8, np.float32),
            },
            "action": action,
            "reward": float(time == 9),
            "language_instruction": "open the drawer",
        }
        for time, (frame, action) in enumerate(zip(frames, actions, strict=True))
    ]
    features = tfds.features.FeaturesDict(
        {
            "steps": tfds.features.Dataset(step),
            "episode_metadata": {"file_path": tfds.features.Text()},
        }
    )
    example = {"steps": steps, "episode_metadata": {"file_path": "demo_0.hdf5"}}
    builder: Any = tfds.dataset_builders.store_as_tfds_dataset(
        name="libero_spatial_no_noops",
        version="1.0.0",
        features=features,
        split_datasets={"train": [("0", example)]},
        data_dir=str(tmp_path),
        file_format=file_format,
    )
    dataset = open_dataset(tmp_path / "libero_spatial_no_noops", ReadOptions(raw_gripper=True))
    again = read_episode(dataset.source, 0)
    np.testing.assert_array_equal(again.info.actions_NA, actions)
    assert (again.info.success, again.info.finish_step) == (True, 10)
    assert again.info.instruction == "open the drawer"
    assert dataset.statistics.mask.tolist() == [True] * 6 + [False]
    if file_format == "tfrecord":  # the pixels are those that TensorFlow decodes
        (expected,) = builder.as_dataset(split="train")
        pixels = [step["observation"]["image"].numpy() for step in expected["steps"]]
        np.testing.assert_array_equal(again.frames_FHWC, pixels)


def test_unknown_paths_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match="There is nothing at"):
        open_source(tmp_path / "nowhere", ReadOptions())
    with pytest.raises(UserError, match="no dataset of a known format"):
        open_source(tmp_path, ReadOptions())


def test_odd_sizes_do_not_fit_into_a_video(tmp_path):
    episode = make_episode(0, 8)
    odd = Episode(episode.info, episode.frames_FHWC[:, 1:])
    with pytest.raises(UserError, match="even sides"):
        WRITERS["lerobot"](tmp_path / "odd", [odd])
    assert list(tmp_path.iterdir()) == []
