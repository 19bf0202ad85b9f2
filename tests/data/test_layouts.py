"""Files that are fine and are not what is read: what they are, what was looked for, one remedy."""

import gzip
import io
import json
import tarfile

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.data import builders
from tests.data.test_choices import wrong_pictures
from wmpo_jax.data.dataset import open_dataset
from wmpo_jax.data.episodes import ReadOptions
from wmpo_jax.data.formats import open_source
from wmpo_jax.data.mixture import open_mixture
from wmpo_jax.runtime.errors import UserError


def aloha(file):
    file["action"] = builders.numbered()
    file["observations/images/cam_high"] = builders.pictures()


def maniskill(file):
    file["traj_0/actions"] = builders.numbered()
    file["traj_0/obs/sensor_data/base_camera/rgb"] = builders.pictures(9)


def raw(file):
    file["data/demo_1/actions"] = builders.numbered()
    file["data/demo_1/states"] = np.zeros((8, 30))


def low_dimensional(file):
    file["data/demo_0/actions"] = builders.numbered()
    file["data/demo_0/obs/object"] = np.zeros((8, 10))


def floats(file):
    file["data/demo_0/actions"] = builders.numbered()
    file["data/demo_0/obs/agentview_image"] = (builders.pictures() / 255).astype(np.float32)


def channels_first(file):
    file["data/demo_0/actions"] = builders.numbered()
    file["data/demo_0/obs/agentview_image"] = builders.pictures().transpose(0, 3, 1, 2)


def encoded(file):
    file["data/demo_0/actions"] = builders.numbered()
    file["data/demo_0/obs/front"] = np.array([b"\xff\xd8\xff jpeg"] * 8, h5py.string_dtype())


REFUSED = {
    encoded: r"no color pictures in obs \(front is object \[8\]\).*store them as uint8",
    aloha: r"no groups data/demo_<i> \(this is an episode of ALOHA",
    maniskill: r"no groups data/demo_<i> \(these are trajectories of ManiSkill",
    raw: r"no pictures: no obs beside actions, states.*dataset_states_to_obs",
    low_dimensional: r"no pictures in obs \(object\).*dataset_states_to_obs",
    floats: r"agentview_image is float32 \[8, 32, 32, 3\].*store them as uint8",
    channels_first: r"agentview_image is uint8 \[8, 3, 32, 32\].*store them as uint8",
    (lambda file: file.create_group("data")): r"\(data holds nothing\)",
    (lambda file: file.create_group("other")): r"\(it holds other\)",
}


@pytest.mark.parametrize("build", REFUSED)
def test_other_hdf5_layouts(tmp_path, build):
    path = builders.hdf5(tmp_path / "set.hdf5", build)
    with pytest.raises(UserError, match=REFUSED[build]) as caught:
        open_dataset(path)
    assert str(caught.value).count(str(path)) == 1 and "copy it again" not in str(caught.value)


def isaac_lab(file):
    group = builders.demo(file, camera="table_cam")
    group["obs/wrist_cam"] = builders.pictures(first=99)
    group["obs/datagen_info/eef_pose/franka"] = np.zeros((8, 4, 4), np.float32)
    group["initial_state/articulation/robot/joint_position"] = np.zeros((1, 9), np.float32)


def trajectories(file):
    """robomimic's layout under ManiSkill's names."""
    file["data/traj_0/actions"] = builders.numbered()
    file["data/traj_0/obs/agentview_rgb"] = builders.pictures()


def nested(file):
    file["data/demo_0/actions"] = builders.numbered()
    file["data/demo_0/obs/images/front"] = builders.pictures()


@pytest.mark.parametrize("build", [isaac_lab, trajectories, nested])
def test_hdf5_layouts_that_are_read(tmp_path, build):
    assert wrong_pictures(open_dataset(builders.hdf5(tmp_path / "set.hdf5", build))) == 0


def test_one_file_without_pictures_is_bad_and_not_all(tmp_path):
    builders.hdf5(tmp_path / "set/a.hdf5", builders.demo)
    builders.hdf5(tmp_path / "set/b.hdf5", raw)
    with pytest.warns(UserWarning, match=r"skipped 1 bad of 2 episodes, the first: b\.hdf5 demo_1"):
        assert wrong_pictures(open_dataset(tmp_path / "set", on_bad="skip")) == 0


def rlds_pictures(folder, kind: str):
    import tensorflow_datasets as tfds

    def file(picture: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG")
        return buffer.getvalue()

    pixels = builders.pictures()
    feature, seen = {
        "array": (tfds.features.Tensor(shape=(32, 32, 3), dtype=np.uint8), pixels),
        "bytes": (tfds.features.Tensor(shape=(), dtype=np.str_), [file(p) for p in pixels]),
        "floats": (
            tfds.features.Tensor(shape=(32, 32, 3), dtype=np.float32),
            pixels.astype(np.float32),
        ),
    }[kind]
    return builders.rlds(folder, observation={"image": feature}, seen=lambda k: {"image": seen[k]})


@pytest.mark.parametrize("kind", ["array", "bytes"])
def test_rlds_pictures_of_other_types(tmp_path, kind):
    assert wrong_pictures(open_dataset(rlds_pictures(tmp_path, kind))) == 0


def test_rlds_pictures_that_are_none(tmp_path):
    with pytest.raises(UserError, match=r"no pictures of uint8 \[H, W, 3\] .*: image"):
        open_dataset(rlds_pictures(tmp_path, "floats"))


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_rlds_actions_of_other_types(tmp_path, dtype):
    path = builders.rlds(tmp_path, actions=builders.numbered().astype(dtype))
    assert wrong_pictures(open_dataset(path)) == 0


def test_rlds_actions_of_one_number(tmp_path):
    path = builders.rlds(tmp_path, actions=builders.numbered()[:, 0].astype(np.float32))
    with pytest.raises(UserError, match=r"actions of shape \[8\], not \[steps, A\]"):
        open_dataset(path)


def test_rlds_metadata_in_part(tmp_path):
    import tensorflow_datasets as tfds

    number = tfds.features.Scalar(np.int64)
    for values, expected in (
        ({"finish_step": 4, "success": 1}, (True, 4)),
        ({"success": 0}, (False, 8)),
        ({"finish_step": 3}, (None, 3)),
    ):
        features = dict.fromkeys(values, number)
        path = builders.rlds(
            tmp_path / str(len(values)) / str(expected), metadata=(features, values)
        )
        info = open_source(path, ReadOptions()).info(0)
        assert ((info.success, info.finish_step), info.seed) == (expected, None)


def tar(path, meta: dict, prefix: str = "0", actions: np.ndarray | None = None):
    actions = builders.numbered().astype(np.float32) if actions is None else actions
    with tarfile.open(path, "w") as archive:
        for name, content in (
            ("video.npy", _npy(builders.pictures(9))),
            ("action.npy", _npy(actions)),
            ("meta.json", json.dumps({"instruction": "go", **meta}).encode()),
        ):
            member = tarfile.TarInfo(f"{prefix}.{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_tars_with_none_and_text(tmp_path):
    meta = {"fps": None, "seed": "7", "unique_id": None, "camera": None, "source": None}
    source = open_dataset(tar(tmp_path / "set.tar", meta, prefix="episode.01")).source
    info = source.info(0)
    assert (info.fps, info.fps_known, info.seed) == (20.0, False, 7)
    assert (info.name, info.camera, info.source) == ("episode.01", "agentview", "set")


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        ({"fps": "fast"}, "the frame rate 'fast', which is not a number"),
        ({"fps": 0}, "the frame rate '0'"),
        ({"seed": "x"}, "the seed 'x'"),
        ({"complete": "maybe"}, "'maybe' for its success"),
        ({"finish_step": None}, "finished at None"),
        ({"finish_step": 0}, r"actions of shape \[0, 7\]"),
    ],
)
def test_tars_without_meaning(tmp_path, meta, reason):
    with pytest.raises(UserError, match=reason):
        open_dataset(tar(tmp_path / "set.tar", meta))


def test_a_tar_of_python_objects(tmp_path):
    path = tar(tmp_path / "set.tar", {}, actions=np.array([None, 1], object))
    with pytest.raises(UserError, match=r"Python objects in action\.npy, not numbers"):
        open_dataset(path)


def test_a_compressed_tar(tmp_path):
    packed = gzip.compress(tar(tmp_path / "set.tar", {}).read_bytes())
    (tmp_path / "set.tar").write_bytes(packed)
    with pytest.raises(UserError, match="is compressed: unpack it"):
        open_dataset(tmp_path / "set.tar")


@pytest.mark.parametrize("name", ["set.hdf5", "set.tar"])
def test_a_clone_without_git_lfs(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(UserError, match="is a Git LFS pointer, not the file itself: run git lfs"):
        open_dataset(tmp_path / name)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("gs://bucket/set/1.0.0", r"^gs://bucket/set/1\.0\.0 is not on a local disk: .*gcloud"),
        ("gs:/bucket/set", "^gs://bucket/set is not on"),  # as pathlib makes it
        ("hf://datasets/me", "hf://datasets/me is no address of the Hugging Face Hub"),
        ("me/so101_pick_place", "There is nothing at .*hf://OWNER/NAME"),
        ("~nobody_of_this_name/x", "has no home folder"),
    ],
)
def test_paths_that_are_none(path, sentence):
    with pytest.raises(UserError, match=sentence):
        open_mixture(path)


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    builders.hdf5(tmp_path / "set.hdf5", builders.demo)
    assert len(open_mixture("~/set.hdf5").datasets[0].episodes) == 1
