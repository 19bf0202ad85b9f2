"""Where a path or a file allows several readings: the certain one, or a list and a question."""

import json
import shutil

import numpy as np
import pytest

from tests.data import builders
from tests.data.conftest import make_episode
from wmpo_jax.data.dataset import open_dataset
from wmpo_jax.data.episodes import (
    BadEpisode,
    ReadOptions,
    outcome,
    pick_camera,
    read_episode,
    yes_or_no,
)
from wmpo_jax.data.formats import WRITERS, open_source
from wmpo_jax.data.loading import Windows, WindowSpec
from wmpo_jax.data.mixture import open_mixture
from wmpo_jax.runtime.errors import UserError


def wrong_pictures(dataset) -> int:
    """Of all windows, how many show another picture than that of their action."""
    windows = Windows(dataset, WindowSpec(history=1, chunk=2, future=False))
    read = [windows.read(number) for number in range(len(windows))]
    return sum(int(frames[0].mean()) != int(actions[0, 0]) for frames, actions, _, _ in read)


def test_a_parent_of_several_rlds_datasets(tmp_path):
    made = builders.rlds(tmp_path / "sets", "libero_10_no_noops")
    for name in ("libero_goal_no_noops", "libero_spatial_no_noops"):
        shutil.copytree(made.parent, tmp_path / "sets" / name)
    with pytest.raises(UserError, match=r"holds 3 datasets \(libero_10_no_noops/1\.0\.0, libero_g"):
        open_source(tmp_path / "sets", ReadOptions())
    assert len(open_source(made.parent, ReadOptions())) == 1  # the folder above the version


def test_versions_are_numbers(tmp_path):
    for version in ("1.9.0", "1.10.0"):
        step = {"language_instruction": version}
        builders.rlds(tmp_path, version=version, step=lambda k, step=step: step)
    shutil.copytree(tmp_path / "arm/1.9.0", tmp_path / "arm/1.11.0.incomplete8X")
    for path in (tmp_path, tmp_path / "arm"):
        assert open_dataset(path).episodes[0].instruction == "1.10.0"


def test_a_parent_of_several_hdf5_folders(tmp_path):
    for name in ("libero_10/a", "libero_goal/b"):
        builders.hdf5(tmp_path / f"{name}_demo.hdf5", builders.demo)
    with pytest.raises(UserError, match=r"holds 2 datasets \(libero_10, libero_goal\)"):
        open_source(tmp_path, ReadOptions())


def test_two_formats_in_a_folder(tmp_path):
    WRITERS["webdataset"](tmp_path / "a.tar", [make_episode(0, 8)])
    builders.hdf5(tmp_path / "b.hdf5", builders.demo)
    with pytest.raises(UserError, match="holds files of hdf5 and webdataset"):
        open_source(tmp_path, ReadOptions())


def test_suffixes_in_capitals_and_hidden_files(tmp_path):
    builders.hdf5(tmp_path / "set/A.HDF5", builders.demo)
    (tmp_path / "set/._A.hdf5").write_bytes(b"written by a Mac")
    for path in (tmp_path / "set", tmp_path / "set/A.HDF5"):
        assert wrong_pictures(open_dataset(path)) == 0


def test_splits_are_named_and_honored(tmp_path):
    def build(file):
        for number in range(4):
            builders.demo(file, number)
        file["mask/train"] = np.array([b"demo_0", b"demo_3"])
        file["mask/valid"] = np.array([b"demo_1", b"demo_2"])

    path = builders.hdf5(tmp_path / "set.hdf5", build)
    with pytest.warns(UserWarning, match="has the splits train, valid, and all"):
        assert len(open_source(path, ReadOptions())) == 4
    valid = open_source(path, ReadOptions(split="valid"))
    assert [valid.info(index).name for index in range(2)] == ["set/demo_1", "set/demo_2"]
    with pytest.raises(UserError, match=r"has no split test \(it has: train, valid\)"):
        open_source(path, ReadOptions(split="test"))


def test_splits_of_rlds(tmp_path):
    path = builders.rlds(tmp_path, split="val")
    with pytest.raises(UserError, match=r"has no split train \(it has: val\): name one"):
        open_source(path, ReadOptions())
    assert len(open_source(path, ReadOptions(split="val"))) == 1


def test_options_that_do_not_apply(tmp_path):
    WRITERS["webdataset"](tmp_path / "set.tar", [make_episode(0, 8)])
    for options in (ReadOptions(recipe="libero"), ReadOptions(split="train")):
        with pytest.raises(UserError, match=r"webdataset dataset, to which `(recipe|split)` does"):
            open_source(tmp_path / "set.tar", options)


def test_recipes_of_hdf5(tmp_path):
    """LIBERO's gripper, -1 open and 1 closed, becomes 1 open and 0 closed."""
    builders.hdf5(tmp_path / "a.hdf5", builders.demo)
    entry = {"path": "a.hdf5", "recipe": "libero", "raw_gripper": True}
    mixture = tmp_path / "mixture.json"
    mixture.write_text(json.dumps({"datasets": [entry]}))
    info = open_mixture(mixture).datasets[0].source.info(0)
    assert info.actions_NA[:, 6].tolist() == [1, 1, 0, 0] * 2
    mixture.write_text(json.dumps({"datasets": [{**entry, "recipe": "libreo"}]}))
    with pytest.raises(UserError, match="no recipe 'libreo'"):
        open_mixture(mixture)


def test_outcomes():
    assert outcome(np.array([0, 0, 1, 1.0]), 4) == (True, 3)
    assert outcome(np.array([[0], [0]]), 2) == (False, 2)
    for dense in ([0.01, 0.4, 0.9], [-1, -1, 0], [0, 0, np.nan], [0, 2.25]):
        assert outcome(np.array(dense), len(dense)) == (None, len(dense))


def test_what_is_yes_and_what_is_no():
    yes, no = (True, 1, 1.0, "True", b"true", " 1 "), (False, 0, np.int64(0), "FALSE", b"0")
    for truth, values in ((True, yes), (False, no)):
        assert all(yes_or_no(value, "it") is truth for value in values)
        assert all(yes_or_no(np.asarray(value), "it") is truth for value in values)
    for value in ("yes", "", 2, -1, np.nan, 0.5, None, [True]):
        with pytest.raises(BadEpisode, match=r"it has .* for its success, not true or false"):
            yes_or_no(value, "it")


@pytest.mark.parametrize(
    ("said", "expected"), [("False", False), (b"true", True), (0, False), (1.0, True)]
)
def test_success_of_odd_types(tmp_path, said, expected):
    def build(file):
        builders.demo(file).attrs["success"] = said

    assert open_dataset(builders.hdf5(tmp_path / "a.hdf5", build)).episodes[0].success is expected


def test_a_demonstration_says_whether_it_succeeded(tmp_path):
    def build(file):
        for number, success in enumerate((True, False)):
            builders.demo(file, number).attrs["success"] = success
        builders.demo(file, 2)["rewards"] = np.linspace(0.01, 0.9, builders.STEPS)
        builders.demo(file, 3)["success"] = np.arange(builders.STEPS) > 4

    source = open_source(builders.hdf5(tmp_path / "set.hdf5", build), ReadOptions())
    infos = [source.info(index) for index in range(4)]
    assert [info.success for info in infos] == [True, False, None, True]
    assert infos[3].finish_step == 6


def test_depth_is_no_camera(tmp_path):
    def build(file):
        group = builders.demo(file, camera="table_cam")
        group["obs/agentview_depth"] = np.ones((8, 32, 32, 3), np.float32)
        group["obs/agentview_depth_rgb"] = builders.pictures(first=99)

    dataset = open_dataset(builders.hdf5(tmp_path / "set.hdf5", build))
    assert dataset.source.info(0).camera == "table_cam"
    assert wrong_pictures(dataset) == 0
    assert pick_camera(["front_depth", "wrist"], "", "here") == "wrist"


FRAME_RATES = {
    "robosuite": (20.0, {"env_kwargs": {"control_freq": 20}}),
    "other": (12.5, {"env_kwargs": {"control_freq": 12.5}}),
    "Isaac Lab": (50.0, {"sim_args": {"dt": 0.01, "decimation": 2}}),
    "nothing": (20.0, {"env_kwargs": None}),
}


@pytest.mark.parametrize("kind", FRAME_RATES)
def test_frame_rates_of_hdf5(tmp_path, kind):
    fps, arguments = FRAME_RATES[kind]

    def build(file):
        builders.demo(file)
        file["data"].attrs["env_args"] = json.dumps(arguments)

    info = open_source(builders.hdf5(tmp_path / "a.hdf5", build), ReadOptions()).info(0)
    assert (info.fps, info.fps_known) == (fps, kind != "nothing")


@pytest.mark.parametrize(
    ("value", "fps"), [("15 Hz", 15.0), ("15", 15.0), (b"29.97fps", 29.97), (None, 20.0)]
)
def test_frame_rates_of_rlds(tmp_path, value, fps):
    import tensorflow_datasets as tfds

    metadata = ({"fps": tfds.features.Text()}, {"fps": value})
    path = builders.rlds(tmp_path, metadata=metadata if value else ({}, {}))
    info = open_source(path, ReadOptions()).info(0)
    assert (info.fps, info.fps_known) == (fps, value is not None)


@pytest.mark.parametrize("name", WRITERS)
def test_an_assumed_frame_rate_stays_assumed(tmp_path, name):
    path = builders.hdf5(tmp_path / "set.hdf5", builders.demo)
    episode = read_episode(open_source(path, ReadOptions()), 0)
    suffix = {"webdataset": ".tar", "hdf5": ".hdf5"}.get(name, "")
    target = tmp_path / f"new{suffix}"
    WRITERS[name](target, [episode])
    again = open_source(target, ReadOptions()).info(0)
    assert (again.fps, again.fps_known) == (20.0, name == "lerobot")  # which must have one
