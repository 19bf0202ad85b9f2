"""The look at a dataset: statistics, its memory, and malformed files of every kind."""

import dataclasses
import json
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.data.conftest import make_episode
from wmpo_jax.data import dataset as module
from wmpo_jax.data.dataset import cache_folder, content_hash, open_dataset
from wmpo_jax.data.episodes import Episode, ReadOptions
from wmpo_jax.data.formats import WRITERS, open_source
from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.data.webdataset import write_webdataset
from wmpo_jax.runtime.errors import UserError


def test_statistics_are_those_of_all_actions(tmp_path, episodes):
    write_webdataset(tmp_path / "set.tar", episodes)
    found = open_dataset(tmp_path / "set.tar").statistics
    actions = np.concatenate([episode.info.actions_NA for episode in episodes])
    assert found.to_json() == ActionStatistics.from_actions(actions).to_json()
    raw = open_dataset(tmp_path / "set.tar", ReadOptions(raw_gripper=True)).statistics
    assert raw.mask.tolist() == [True] * 6 + [False]


def test_statistics_need_no_video(tmp_path, episodes, monkeypatch):
    write_webdataset(tmp_path / "set.tar", episodes)

    def decode(*_):
        raise AssertionError("a video was decoded")

    monkeypatch.setattr(module, "checked_frames", decode)
    assert open_dataset(tmp_path / "set.tar", verify="none").statistics.q01.shape == (7,)


def test_an_inspection_is_cached_by_content(tmp_path, episodes, monkeypatch):
    write_webdataset(tmp_path / "set.tar", episodes[:2])
    first = open_dataset(tmp_path / "set.tar")
    (tmp_path / "moved").mkdir()
    (tmp_path / "set.tar").rename(tmp_path / "moved/set.tar")
    monkeypatch.setattr(module, "_look", lambda *_: pytest.fail("looked twice"))
    again = open_dataset(tmp_path / "moved/set.tar")
    assert again.episodes == first.episodes
    assert again.statistics.to_json() == first.statistics.to_json()


def test_other_content_is_inspected_again(tmp_path, episodes):
    write_webdataset(tmp_path / "set.tar", episodes[:2])
    before = open_dataset(tmp_path / "set.tar").statistics
    content = bytearray((tmp_path / "set.tar").read_bytes())
    place = content.index(episodes[0].info.actions_NA.tobytes())
    content[place : place + 4] = np.float32(5.0).tobytes()  # same name, same size
    (tmp_path / "set.tar").write_bytes(content)
    after = open_dataset(tmp_path / "set.tar").statistics
    assert (before.to_json()["max"][0] < 1.0, after.to_json()["max"][0]) == (True, 5.0)


def test_a_damaged_cache_entry_is_made_again(tmp_path, episodes):
    write_webdataset(tmp_path / "set.tar", episodes[:2])
    expected = open_dataset(tmp_path / "set.tar").statistics.to_json()
    mark = content_hash(open_source(tmp_path / "set.tar", ReadOptions()))
    (file,) = cache_folder().glob(f"{mark}_*.json")
    file.write_text('{"episodes": [')
    assert open_dataset(tmp_path / "set.tar").statistics.to_json() == expected


def _nan(episode: Episode) -> Episode:
    actions = episode.info.actions_NA.copy()
    actions[3, 2] = np.nan
    return Episode(dataclasses.replace(episode.info, actions_NA=actions), episode.frames_FHWC)


def _narrow(episode: Episode) -> Episode:
    info = dataclasses.replace(episode.info, actions_NA=episode.info.actions_NA[:, :5])
    return Episode(info, episode.frames_FHWC)


def _small(episode: Episode) -> Episode:
    return Episode(episode.info, episode.frames_FHWC[:, ::2, ::2])


BAD_EPISODES = {
    "NaN": (_nan, "NaN or an infinity in action 3"),
    "width": (_narrow, "5 numbers per action, others 7"),
    "size": (_small, r"frames of \[16, 16, 3\]"),
}


@pytest.mark.parametrize("what", BAD_EPISODES)
def test_a_bad_episode_is_refused_or_counted(tmp_path, episodes, what):
    spoil, sentence = BAD_EPISODES[what]
    write_webdataset(tmp_path / "set.tar", [episodes[0], spoil(episodes[1]), episodes[2]])
    _assert_refused_or_counted(tmp_path / "set.tar", sentence, good=[0, 2])


@pytest.mark.parametrize("name", WRITERS)
def test_a_nan_is_found_in_every_format(tmp_path, episodes, name):
    path = tmp_path / {"webdataset": "set.tar", "hdf5": "set.hdf5"}.get(name, "set")
    WRITERS[name](path, [episodes[0], _nan(episodes[1]), episodes[2]])
    _assert_refused_or_counted(path, "NaN or an infinity in action 3", good=[0, 2])


def test_hdf5_of_other_widths_and_sizes(tmp_path, episodes):
    """An episode of its own shape, in the one other format that can hold such."""
    for spoil, sentence in (BAD_EPISODES["width"], BAD_EPISODES["size"]):
        path = tmp_path / f"{spoil.__name__}.hdf5"
        WRITERS["hdf5"](path, [episodes[0], spoil(episodes[1]), episodes[2]])
        _assert_refused_or_counted(path, sentence, good=[0, 2])


def _assert_refused_or_counted(path: Path, sentence: str, good: list[int]) -> None:
    with pytest.raises(UserError, match=sentence):
        open_dataset(path, on_bad="refuse")
    with pytest.warns(UserWarning, match=sentence) as caught:
        found = open_dataset(path, on_bad="skip")
    assert f"skipped {len(found.bad)} bad" in str(caught[0].message)
    assert [entry.index for entry in found.episodes] == good


def _cut_tail(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def test_a_truncated_tar(tmp_path, episodes):
    write_webdataset(tmp_path / "set.tar", episodes[:3])
    _cut_tail(tmp_path / "set.tar", 0.7)
    _assert_refused_or_counted(tmp_path / "set.tar", "sample 000002 (has no|is cut off)", [0, 1])


def test_a_tar_without_a_member(tmp_path, episodes):
    from webdataset.writer import TarWriter

    with TarWriter(str(tmp_path / "set.tar")) as sink:
        for number, episode in enumerate(episodes[:2]):
            sample = {"__key__": f"{number}", "video.npy": episode.frames_FHWC, "meta.json": {}}
            if number:
                sample["action.npy"] = episode.info.actions_NA
            sink.write(sample)
    _assert_refused_or_counted(tmp_path / "set.tar", "sample 0 has no action.npy", [1])


def test_a_tar_with_an_unreadable_video(tmp_path, episodes):
    """The bytes of one video.npy are noise from its header on."""
    write_webdataset(tmp_path / "set.tar", episodes[:3])
    with tarfile.open(tmp_path / "set.tar") as tar:
        place = [member for member in tar if member.name.endswith("video.npy")][1]
    content = bytearray((tmp_path / "set.tar").read_bytes())
    content[place.offset_data : place.offset_data + 64] = bytes(64)
    (tmp_path / "set.tar").write_bytes(content)
    _assert_refused_or_counted(tmp_path / "set.tar", "000001", [0, 2])


def test_hdf5_without_a_key(tmp_path, episodes):
    WRITERS["hdf5"](tmp_path / "set.hdf5", episodes[:3])
    with h5py.File(tmp_path / "set.hdf5", "a") as file:
        del file["data/demo_1/actions"]
    _assert_refused_or_counted(
        tmp_path / "set.hdf5", r"demo_1 has no actions \(it has: dones, obs, rewards\)", [0, 2]
    )


def test_hdf5_with_a_damaged_picture(tmp_path, episodes):
    WRITERS["hdf5"](tmp_path / "set.hdf5", episodes[:3])
    with h5py.File(tmp_path / "set.hdf5") as file:
        place = file["data/demo_1/obs/agentview"].id.get_chunk_info(4)
    content = bytearray((tmp_path / "set.hdf5").read_bytes())
    content[place.byte_offset : place.byte_offset + place.size] = bytes(place.size)
    (tmp_path / "set.hdf5").write_bytes(content)
    _assert_refused_or_counted(tmp_path / "set.hdf5", "episode 1 cannot be read", [0, 2])


def test_a_truncated_hdf5(tmp_path, episodes):
    WRITERS["hdf5"](tmp_path / "set.hdf5", episodes[:3])
    _cut_tail(tmp_path / "set.hdf5", 0.5)
    with pytest.raises(UserError, match="is not a readable HDF5 file"):
        open_dataset(tmp_path / "set.hdf5", on_bad="skip")


def test_lerobot_with_an_unreadable_video(tmp_path, episodes):
    WRITERS["lerobot"](tmp_path / "set", episodes[:3])
    (file,) = (tmp_path / "set/videos").rglob("*.mp4")
    content = bytearray(file.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"mp4 (cannot be decoded|has no frame)"):
        open_dataset(tmp_path / "set", on_bad="refuse")
    with pytest.raises(UserError, match="No episode of"):
        open_dataset(tmp_path / "set", on_bad="skip")


def test_lerobot_with_fewer_rows_than_it_says(tmp_path, episodes):
    WRITERS["lerobot"](tmp_path / "set", episodes[:3])
    file = tmp_path / "set/data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    pq.write_table(table.slice(0, len(table) - 4), file)
    _assert_refused_or_counted(tmp_path / "set", "holds 8 of the 12 steps of episode 2", [0, 1])


def test_lerobot_of_an_older_version(tmp_path, episodes):
    WRITERS["lerobot"](tmp_path / "set", episodes[:1])
    file = tmp_path / "set/meta/info.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "codebase_version": "v2.1"}))
    with pytest.raises(UserError, match=r"version v2\.1 and v3\.0 is read"):
        open_dataset(tmp_path / "set")


def test_a_tar_whose_finish_is_no_number(tmp_path, episodes):
    from webdataset.writer import TarWriter

    with TarWriter(str(tmp_path / "set.tar")) as sink:
        for number, finish in enumerate([8, "late"]):
            sink.write(
                {
                    "__key__": f"{number}",
                    "video.npy": episodes[0].frames_FHWC,
                    "action.npy": episodes[0].info.actions_NA,
                    "meta.json": {"finish_step": finish},
                }
            )
    _assert_refused_or_counted(tmp_path / "set.tar", "finished at 'late'", [0])


@pytest.mark.parametrize("key", ["fps", "features"])
def test_lerobot_without_a_fact(tmp_path, episodes, key):
    WRITERS["lerobot"](tmp_path / "set", episodes[:1])
    path = tmp_path / "set/meta/info.json"
    facts = json.loads(path.read_text())
    del facts[key]
    path.write_text(json.dumps(facts))
    with pytest.raises(UserError, match=f"lacks {key}"):
        open_dataset(tmp_path / "set", on_bad="skip")


def test_lerobot_without_the_place_of_a_video(tmp_path, episodes):
    WRITERS["lerobot"](tmp_path / "set", episodes[:1])
    (file,) = (tmp_path / "set/meta/episodes").rglob("*.parquet")
    column = "videos/observation.images.agentview/from_timestamp"
    pq.write_table(pq.read_table(file).drop_columns([column]), file)
    with pytest.raises(UserError, match=f"lacks {column}"):
        open_dataset(tmp_path / "set")


@pytest.mark.parametrize("damage", ["{", "{}"])
def test_rlds_with_damaged_features(tmp_path, episodes, damage):
    WRITERS["rlds"](tmp_path / "set", episodes[:1])
    (tmp_path / "set/1.0.0/features.json").write_text(damage)
    with pytest.raises(UserError, match="not a readable RLDS dataset"):
        open_dataset(tmp_path / "set")


@pytest.mark.parametrize("name", ["rlds", "rlds_tfrecord"])
def test_rlds_cut_short(tmp_path, episodes, name):
    WRITERS[name](tmp_path / "set", episodes[:3])
    (file,) = (tmp_path / "set").rglob("*-train.*")
    _cut_tail(file, 0.9)
    if name == "rlds":  # an ArrayRecord's index is at its end
        with pytest.raises(UserError, match="is damaged"):
            open_dataset(tmp_path / "set", on_bad="skip")
    else:
        _assert_refused_or_counted(tmp_path / "set", "the file is cut off", [0, 1])


def test_rlds_with_a_damaged_picture(tmp_path, episodes):
    WRITERS["rlds_tfrecord"](tmp_path / "set", episodes[:3])
    (file,) = (tmp_path / "set").rglob("*-train.*")
    content = bytearray(file.read_bytes())
    place = content.index(b"\xff\xd8")
    content[place : place + 60] = bytes(60)
    file.write_bytes(content)
    _assert_refused_or_counted(tmp_path / "set", "damaged picture", [1, 2])


def test_words_that_are_no_choice(tmp_path, episodes):
    write_webdataset(tmp_path / "set.tar", episodes[:1])
    with pytest.raises(UserError, match="choose from refuse, skip"):
        open_dataset(tmp_path / "set.tar", on_bad="ignore")


def test_an_unknown_camera_is_refused(tmp_path):
    WRITERS["hdf5"](tmp_path / "set.hdf5", [make_episode(0, 8)])
    with pytest.raises(UserError, match=r"no camera front \(it has: agentview\)"):
        open_dataset(tmp_path / "set.hdf5", ReadOptions(camera="front"))
