"""What is remembered of a dataset: by path and content, and nothing that passes."""

import errno
import json
import os
import resource

import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.data import builders
from tests.data.conftest import make_episode
from wmpo_jax.data.dataset import cache_folder, content_hash, open_dataset
from wmpo_jax.data.episodes import BadEpisode, ReadOptions, checked_frames, checked_info
from wmpo_jax.data.formats import WRITERS, open_source
from wmpo_jax.data.hdf5 import Hdf5Source
from wmpo_jax.data.loading import WindowLoader, WindowSpec
from wmpo_jax.data.mixture import open_mixture, open_section
from wmpo_jax.runtime.errors import UserError


@pytest.fixture(autouse=True)
def new_cache(tmp_path, monkeypatch):
    """No test finds what another has looked at."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def one(tmp_path):
    """A dataset of one demonstration."""
    return builders.hdf5(tmp_path / "set.hdf5", builders.demo)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("wrapped", [True, False])
def test_temporary_faults_are_not_cached(one, monkeypatch, number, wrapped):
    def fail(*_):
        try:
            raise OSError(number, os.strerror(number))
        except OSError as error:
            if wrapped:  # as readers do with what they take for damage
                raise BadEpisode("the video cannot be decoded") from error
            raise

    with monkeypatch.context() as patch:
        patch.setattr(Hdf5Source, "frames", fail)
        with pytest.raises(UserError, match=rf"{os.strerror(number)}\): "):
            open_dataset(one, on_bad="skip")
    assert len(open_dataset(one).episodes) == 1


def test_too_few_file_handles(one):
    """The limit of the operating system itself, met in the middle of opening."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    source = Hdf5Source(one, ReadOptions())
    source._open.popitem()[1].close()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), limits[1]))
        with pytest.raises(OSError, match="Too many"):
            while True:
                held.append(open(one, "rb"))  # noqa: SIM115
        with pytest.raises(UserError, match="raise the limit of open files"):
            checked_info(source, 0)
        with pytest.raises(UserError, match="raise the limit of open files"):
            open_source(one, ReadOptions())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for file in held:
            file.close()
    assert checked_info(source, 0).num_frames == builders.STEPS


def test_more_files_than_are_kept_open(tmp_path, monkeypatch):
    monkeypatch.setattr("wmpo_jax.data.hdf5.OPEN_FILES", 2)
    for number in range(5):
        builders.hdf5(tmp_path / f"{number}.hdf5", lambda file, n=number: builders.demo(file, n))
    source = Hdf5Source(tmp_path, ReadOptions())
    assert [source.info(index).actions_NA[0, 0] for index in range(5)] == [0, 20, 40, 60, 80]
    assert len(source._open) == 2


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("no len()"), ZeroDivisionError()])
@pytest.mark.parametrize("method", ["info", "frames"])
def test_whatever_a_reader_raises_is_a_bad_episode(tmp_path, monkeypatch, error, method):
    WRITERS["hdf5"](tmp_path / "set.hdf5", [make_episode(n, 8 + len(method)) for n in range(3)])
    source = open_source(tmp_path / "set.hdf5", ReadOptions())
    with monkeypatch.context() as patch:
        read = getattr(Hdf5Source, method)

        def fail(self, index, *rest):
            if index == 1:
                raise error
            return read(self, index, *rest)

        patch.setattr(Hdf5Source, method, fail)
        with pytest.raises(BadEpisode, match=rf"^set episode 1 cannot be read \(.*{error}"):
            checked_info(source, 1)
            checked_frames(source, 1, np.array([0]))
        with pytest.warns(UserWarning, match="skipped 1 bad of 3 episodes"):
            found = open_dataset(tmp_path / "set.hdf5", on_bad="skip")
    assert [entry.index for entry in found.episodes] == [0, 2]


def test_reasons_name_no_folder_that_may_be_left(tmp_path):
    def build(file):
        builders.demo(file)["obs/agentview_rgb"][...] = 3
        del builders.demo(file, 1)["actions"]

    for place in ("old", "new"):
        path = builders.hdf5(tmp_path / place / "set.hdf5", build)
        with pytest.raises(UserError) as caught:
            open_dataset(path)
        assert str(caught.value).startswith(
            f"1 of 2 episodes of {path} are bad, the first: set.hdf5 "
        )
        assert str(caught.value).count(str(tmp_path)) == 1
    (file,) = cache_folder().iterdir()  # one for both
    assert str(tmp_path) not in file.read_text()


def test_folders_behind_links_are_part_of_the_content(tmp_path):
    """A video that breaks behind a link is found, though the dataset was good before."""
    WRITERS["lerobot"](tmp_path / "set", [make_episode(0, 8)])
    (tmp_path / "set/videos").rename(tmp_path / "elsewhere")
    (tmp_path / "set/videos").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/round").symlink_to(tmp_path / "elsewhere")
    assert len(open_dataset(tmp_path / "set").episodes) == 1
    (file,) = (tmp_path / "elsewhere").glob("*/*/*.mp4")
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(UserError, match="can be used"):
        open_dataset(tmp_path / "set")


def test_files_that_change_places_are_another_dataset(tmp_path):
    """LeRobot's files have the same names in every chunk."""
    source = open_source(builders.hdf5(tmp_path / "set.hdf5", builders.demo), ReadOptions())
    source.files = [tmp_path / f"chunk-00{number}/file-000.parquet" for number in range(2)]
    marks = []
    for contents in ("ab", "ba"):
        for file, content in zip(source.files, contents, strict=True):
            file.parent.mkdir(exist_ok=True)
            file.write_text(content)
        marks.append(content_hash(source))
    assert marks[0] != marks[1]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"episodes": [{}], "bad": []}', "null"])
def test_a_damaged_cache_entry_is_made_again(one, content):
    expected = open_dataset(one)
    (file,) = cache_folder().iterdir()
    file.write_text(content)
    again = open_dataset(one)
    assert again.episodes == expected.episodes
    assert again.statistics.to_json() == expected.statistics.to_json()


def test_a_cache_that_cannot_be_written_costs_time_only(one, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="will be looked through again next time"):
        assert len(open_dataset(one).episodes) == 1


def mixture(tmp_path, *entries, **fields):
    path = tmp_path / "mixture.json"
    path.write_text(json.dumps({"datasets": list(entries), **fields}))
    return path


def wide(path, width, scale=1.0):
    def build(file):
        file["data/demo_0/actions"] = scale * np.random.default_rng(0).normal(size=(8, width))
        file["data/demo_0/obs/agentview_rgb"] = builders.pictures()

    return builders.hdf5(path, build)


def test_datasets_of_one_name(tmp_path):
    """Two people's recordings are distinguished by their paths."""
    for owner, width, scale in (("anna", 7, 1.0), ("bert", 8, 1.0), ("carl", 7, 3.0)):
        wide(tmp_path / owner / "pick.hdf5", width, scale)
    paths = [{"path": f"{owner}/pick.hdf5"} for owner in ("anna", "bert", "carl")]
    with pytest.raises(UserError) as caught:
        open_mixture(mixture(tmp_path, *paths))
    assert "have different widths" in str(caught.value)
    for owner, width in (("anna", 7), ("bert", 8)):
        assert f"{tmp_path}/{owner}/pick.hdf5 has {width}" in str(caught.value)
    both = open_mixture(mixture(tmp_path, paths[0], paths[2]))
    assert (len(both.datasets), both.action_dim) == (2, 7)
    assert [dataset.name for dataset in both.datasets] == ["anna/pick.hdf5", "carl/pick.hdf5"]
    ours, theirs = (dataset.statistics.q99 for dataset in both.datasets)
    np.testing.assert_allclose(theirs, 3 * ours)  # each its own, by content
    batch = WindowLoader(both, WindowSpec(1, 8, False), 2, 0, image_size=32, clip=True).batch(0)
    np.testing.assert_allclose(batch["actions_BKA"][0], batch["actions_BKA"][1], atol=1e-6)
    with pytest.raises(UserError, match=r"lists .*anna/pick\.hdf5 twice"):
        open_mixture(mixture(tmp_path, paths[0], {"path": "carl/../anna/pick.hdf5"}))


def test_copies_are_found_by_their_content(tmp_path):
    for owner in ("anna", "bert"):
        wide(tmp_path / owner / "pick.hdf5", 7)
    paths = [{"path": f"{owner}/pick.hdf5"} for owner in ("anna", "bert")]
    with pytest.raises(UserError, match=r"anna/pick\.hdf5 and .*bert/pick\.hdf5, which hold the"):
        open_mixture(mixture(tmp_path, *paths))
    # The same files read in two ways are two datasets, whose names say how.
    both = open_mixture(
        mixture(tmp_path, paths[0], {**paths[0], "rotate": True, "instruction": "lift"})
    )
    names = [dataset.name for dataset in both.datasets]
    assert names == ["pick.hdf5", "pick.hdf5 (instruction lift, rotate True)"]


@pytest.mark.parametrize(
    ("entry", "fields", "sentence"),
    [
        ({"path": 3}, {}, "has no path"),
        ({"path": "set.hdf5", "weight": True}, {}, "the weight True"),
        ({"path": "set.hdf5", "weight": float("inf")}, {}, "the weight inf"),
        ({"path": "set.hdf5", "weight": float("nan")}, {}, "the weight nan"),
        ({"path": "set.hdf5", "rotate": "yes"}, {}, "the rotate 'yes': write true or false"),
        ({"path": "set.hdf5", "camera": None}, {}, "the camera None: write text"),
        ({"path": "gs://bucket/set"}, {}, "gs://bucket/set is not on a local disk"),
        ({"path": "set.hdf5"}, {"balance": "no"}, "balance: no"),
        ({"path": "set.hdf5"}, {"balanced": True}, "balanced: True"),
    ],
)
def test_mixtures_without_meaning(one, entry, fields, sentence):
    with pytest.raises(UserError, match=sentence):
        open_mixture(mixture(one.parent, entry, **fields))


def test_mixtures_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="no readable mixture at"):
        open_mixture(tmp_path / "mixture.json")
    (tmp_path / "mixture.json").write_text("{")
    with pytest.raises(UserError, match=r"is not JSON .*: correct it"):
        open_mixture(tmp_path / "mixture.json")


def section(source, **fields):
    return ConfigDict({"source": str(source), "on_bad": "refuse", "verify": "all", **fields})


def test_a_config_says_how_one_dataset_is_read(tmp_path):
    """LIBERO's file, whose pictures are upside down, which it says."""

    def build(file):
        group = builders.demo(file)
        group["obs/agentview_rgb"][:, 0, 0] = 255
        group["obs/eye_in_hand_rgb"] = builders.pictures(first=99)
        file["data"].attrs["macros_image_convention"] = "opengl"

    path = builders.hdf5(tmp_path / "set.hdf5", build)
    with pytest.warns(UserWarning, match=r"upside down.*config\.data\.rotation=180"):
        as_it_is = open_section(section(path))
    turned = open_section(section(path, rotation=180, instruction="lift it", camera=""))
    wrist = open_section(section(path, rotation=180, camera="eye_in_hand_rgb"))
    assert as_it_is and turned and wrist
    first = np.array([0])
    assert as_it_is.datasets[0].source.frames(0, first)[0, 0, 0, 0] == 255
    assert turned.datasets[0].source.frames(0, first)[0, -1, -1, 0] == 255
    assert wrist.datasets[0].source.frames(0, first).max() == 99
    assert turned.instructions == ("lift it",)


def test_a_section_without_meaning(one):
    assert open_section(section("")) is None
    for rotation in (90, -180, "180"):
        with pytest.raises(UserError, match=r"config\.data\.rotation is .*: choose from 0 and 180"):
            open_section(section(one, rotation=rotation))
    path = mixture(one.parent, {"path": "set.hdf5"})
    with pytest.raises(UserError, match="is a mixture: give camera, instruction and rotate there"):
        open_section(section(path, camera="front"))


def test_a_snapshot_of_the_hub_has_the_name_of_its_repository(tmp_path):
    """The files of a snapshot are links, as huggingface_hub makes them."""
    snapshot = tmp_path / "models--/datasets--anna--pick_cup/snapshots/0f3a9c"
    WRITERS["lerobot"](tmp_path / "made", [make_episode(0, 8)])
    for file in [path for path in (tmp_path / "made").rglob("*") if path.is_file()]:
        link = snapshot / file.relative_to(tmp_path / "made")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    for path in (snapshot, snapshot.parents[1]):
        dataset = open_mixture(path).datasets[0]
        assert (dataset.name, dataset.source.info(0).source) == ("anna/pick_cup", "tests")
    assert open_mixture(tmp_path / "made").datasets[0].name == "made"
