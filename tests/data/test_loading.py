"""Windows, mixtures and batches: padding, weights, determinism, resuming, hosts."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest

from tests.data.conftest import make_episode
from wmpo_jax.data.dataset import open_dataset
from wmpo_jax.data.episodes import BadEpisode
from wmpo_jax.data.loading import WindowLoader, Windows, WindowSpec
from wmpo_jax.data.mixture import Mixture, magic_soup, open_mixture
from wmpo_jax.data.openx import MAGIC_SOUP_PLUS_MINUS
from wmpo_jax.data.webdataset import write_webdataset
from wmpo_jax.runtime.errors import UserError

REFERENCE = WindowSpec(history=4, chunk=8, future=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, episodes):
    """Two datasets, of five and of two episodes, and a mixture of both."""
    folder = tmp_path_factory.mktemp("sets")
    write_webdataset(folder / "large.tar", episodes)
    write_webdataset(folder / "small.tar", [make_episode(n, 9) for n in (20, 22)])
    listed = {
        "datasets": [{"path": "large.tar", "weight": 1.0}, {"path": "small.tar", "weight": 3.0}]
    }
    (folder / "both.json").write_text(json.dumps(listed))
    (folder / "shares.json").write_text(json.dumps({**listed, "balance": False}))
    return folder


@pytest.fixture(scope="module")
def large(folder):
    return open_mixture(folder / "large.tar")


def loader(mixture, batch_size=6, seed=3, spec=REFERENCE, clip=False, **options):
    return WindowLoader(mixture, spec, batch_size, seed, image_size=32, clip=clip, **options)


def test_windows_of_the_reference(large, episodes):
    """Starts 0 ... T - 8; frames s - 3 ... s + 8, before the first one its copies."""
    windows = Windows(large.datasets[0], REFERENCE)
    assert len(windows) == sum(len(e.info.actions_NA) - 7 for e in episodes)
    frames, actions, words, start = windows.read(1)
    assert (start, words) == (1, episodes[0].info.instruction)
    expected = episodes[0].frames_FHWC[[0, 0, 0, *range(1, 10)]]
    np.testing.assert_array_equal(frames, expected)
    np.testing.assert_array_equal(actions, episodes[0].info.actions_NA[1:9])
    last = windows.read(len(windows) - 1)
    np.testing.assert_array_equal(last[0], episodes[-1].frames_FHWC[-12:])


def test_windows_without_future_and_with_past_actions(large, episodes):
    spec = WindowSpec(history=1, chunk=4, future=False, past_actions=4)
    frames, actions, _, _ = Windows(large.datasets[0], spec).read(2)
    np.testing.assert_array_equal(frames, episodes[0].frames_FHWC[[2]])
    np.testing.assert_array_equal(actions, episodes[0].info.actions_NA[[0, 0, 0, 1, 2, 3, 4, 5]])


def test_an_epoch_sees_every_window_once(large):
    windows = len(Windows(large.datasets[0], REFERENCE))
    loads = loader(large, batch_size=1)
    epochs = [[loads.batch(e * windows + n) for n in range(windows)] for e in range(2)]
    keys = [[(b["start_B"][0], b["actions_BKA"].tobytes()) for b in batches] for batches in epochs]
    assert len(set(keys[0])) == windows
    assert Counter(keys[0]) == Counter(keys[1]) and keys[0] != keys[1]


def test_resuming_gives_the_batches_that_would_have_come(large):
    uninterrupted = list(itertools.islice(loader(large).iterate(0), 9))
    resumed = list(itertools.islice(loader(large).iterate(5), 4))
    _assert_equal(loader(large).batch(2), uninterrupted[2])
    for expected, found in zip(uninterrupted[5:], resumed, strict=True):
        _assert_equal(found, expected)
    assert not np.array_equal(
        loader(large, seed=4).batch(0)["actions_BKA"], uninterrupted[0]["actions_BKA"]
    )


def _assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.mark.parametrize("hosts", [[[0, 1, 2], [3, 4, 5]], [[0, 3], [1, 4], [2, 5]]])
def test_the_global_batch_is_the_same_for_any_number_of_hosts(large, hosts):
    whole = loader(large).batch(4)
    for rows in map(np.array, hosts):
        part = loader(large, rows=rows).batch(4)
        _assert_equal(part, {name: values[rows] for name, values in whole.items()})


def _share_of_the_small(mixture) -> float:
    """Of 200 windows. (Grain is slow at shuffling a handful: 1 ms per window of 25.)"""
    loads = loader(mixture, batch_size=100)
    order = loads._order(mixture, 100, 3)
    return float(np.mean([order[step][:, 0].mean() for step in range(2)]))


def test_weights(folder):
    mixture = open_mixture(folder / "both.json")
    large, small = (len(Windows(dataset, REFERENCE)) for dataset in mixture.datasets)
    expected = 3 * small / (large + 3 * small)
    assert _share_of_the_small(mixture) == pytest.approx(expected, abs=0.01)
    shares = open_mixture(folder / "shares.json")
    assert _share_of_the_small(shares) == pytest.approx(0.75, abs=0.01)


def test_each_dataset_is_normalized_by_its_own_statistics(folder):
    mixture = open_mixture(folder / "both.json")
    for number, dataset in enumerate(mixture.datasets):
        alone = Mixture([dataset], [1.0])
        batch = loader(alone, clip=True).batch(0)
        raw = [
            Windows(dataset, REFERENCE).read(n)[1] for n in range(len(Windows(dataset, REFERENCE)))
        ]
        normalized = dataset.statistics.normalize(np.stack(raw)).astype(np.float32)
        known = {window.tobytes() for window in normalized}
        assert all(window.tobytes() in known for window in batch["actions_BKA"]), number
    assert abs(loader(mixture, clip=True).batch(0)["actions_BKA"]).max() == 1.0
    assert abs(loader(mixture, clip=False).batch(0)["actions_BKA"]).max() > 1.0


def test_frames_are_resized_and_instructions_numbered(large):
    batch = WindowLoader(large, REFERENCE, 4, 0, image_size=16, clip=False).batch(0)
    assert batch["frames_BTHWC"].shape == (4, 12, 16, 16, 3)
    words = ["open the drawer", "something else", "pick up the bowl"]
    assert set(loader(large, instructions=words).batch(0)["instruction_id_B"].tolist()) == {0, 2}
    with pytest.raises(UserError, match="ask to 'pick up the bowl' and the task knows: push"):
        loader(large, instructions=["push", "open the drawer"])


def test_an_episode_that_breaks_while_training(folder, episodes, monkeypatch):
    for on_bad in ("skip", "refuse"):
        dataset = open_dataset(folder / "large.tar", on_bad=on_bad)
        read = dataset.source.frames

        def frames(index, times_T, read=read):
            if index == 0:
                raise BadEpisode("the disk of episode 0 has died")
            return read(index, times_T)

        monkeypatch.setattr(dataset.source, "frames", frames)
        loads = loader(Mixture([dataset], [1.0]), batch_size=30)
        if on_bad == "refuse":
            with pytest.raises(UserError, match=r"has died: repair it or set on_bad to skip"):
                next(loads.iterate(0))
        else:
            with pytest.warns(UserWarning, match="has died: the next episode takes its place"):
                batch = loads.batch(0)
                _assert_equal(loads.batch(0), batch)
            assert loads.skipped > 0 and len(batch["instruction_id_B"]) == 30


def test_episodes_too_short_for_a_chunk(tmp_path):
    write_webdataset(tmp_path / "set.tar", [make_episode(0, 5)])
    with pytest.raises(UserError, match="long enough for a chunk of 8"):
        loader(open_mixture(tmp_path / "set.tar"))
    write_webdataset(tmp_path / "some.tar", [make_episode(n, 5 + 4 * (n == 1)) for n in range(3)])
    with pytest.warns(UserWarning, match="2 of 3 episodes are too short for a chunk of 8 actions"):
        windows = Windows(open_dataset(tmp_path / "some.tar"), REFERENCE)
    assert (len(windows), windows.too_short) == (2, 2)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({}, "lists no datasets"),
        ({"datasets": [{"weight": 1}]}, "has no path"),
        ({"datasets": [{"path": "large.tar", "wieght": 2}]}, "unknown field wieght"),
        ({"datasets": [{"path": "large.tar", "weight": 0}]}, "the weight 0"),
    ],
)
def test_malformed_mixtures(folder, content, sentence):
    (folder / "bad.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=sentence):
        open_mixture(folder / "bad.json")


def test_magic_soup_lists_what_is_there(tmp_path):
    for name in ("bridge_orig", "kuka", "unrelated"):
        (tmp_path / name).mkdir()
    listed = magic_soup(tmp_path)["datasets"]
    assert {entry["recipe"]: entry["weight"] for entry in listed} == {
        name: MAGIC_SOUP_PLUS_MINUS[name] for name in ("kuka", "bridge_orig")
    }
