"""Statistics of actions: there and back again."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from wmpo_jax.data.statistics import LIMIT, ActionStatistics
from wmpo_jax.runtime.errors import UserError


@pytest.fixture
def actions():
    """The first dimension moves, the second never does, the third is a gripper."""
    rng = np.random.default_rng(0)
    gripper = rng.choice([-1.0, 1.0], 5000)
    return np.stack([rng.uniform(-0.3, 0.5, 5000), np.full(5000, 0.2), gripper], axis=1)


@pytest.fixture
def statistics(actions):
    return ActionStatistics.from_actions(actions, mask=np.array([True, True, False]))


def test_normalize_and_back(statistics, actions):
    for array, atol in ((actions, 1e-12), (jnp.asarray(actions), 1e-6)):
        normalized = statistics.normalize(array)
        assert abs(normalized[:, 0]).max() == 1.0  # the outer 2 % are clipped
        np.testing.assert_array_equal(normalized[:, 1], 0.0)
        np.testing.assert_array_equal(normalized[:, 2], array[:, 2])
        inside = np.abs(normalized[:, 0]) < 1.0
        back = statistics.unnormalize(normalized)
        np.testing.assert_allclose(back[inside], array[inside], atol=max(atol, 1e-8))


def test_file_round_trip(statistics, tmp_path):
    path = tmp_path / "dataset_statistics.json"
    statistics.save(path, "press_pad")
    again = ActionStatistics.load(path, "press_pad")
    assert again.to_json() == statistics.to_json()
    with pytest.raises(UserError, match="it knows: press_pad"):
        ActionStatistics.load(path, "coffee")


def test_a_suite_is_found_without_its_idle_steps(statistics, tmp_path):
    path = tmp_path / "dataset_statistics.json"
    statistics.save(path, "libero_spatial_no_noops")
    assert ActionStatistics.load(path, "libero_spatial").to_json() == statistics.to_json()
    with pytest.raises(UserError, match="it knows: libero_spatial_no_noops"):
        ActionStatistics.load(path, "libero_goal")


def test_no_mask_means_all_dimensions(statistics):
    entry = {name: value for name, value in statistics.to_json().items() if name != "mask"}
    assert ActionStatistics.from_json(entry).mask.tolist() == [True, True, True]


# What a dimension does besides resting: rest, and noise around it.
RARE = {"exactly at rest": 0.0, "almost at rest": 1e-6}


@pytest.mark.parametrize("kind", RARE)
def test_a_dimension_that_rarely_moves(kind):
    """A button that is pressed in one step of 300; 98 % of the steps do not show its range."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (300, 2))
    actions[:, 1] = RARE[kind] * rng.normal(size=300)
    actions[30, 1] = 1.0
    statistics = ActionStatistics.from_actions(actions)
    assert statistics.rare_A.tolist() == [False, True]
    assert not statistics.constant_A.any()
    labels = statistics.normalize(actions)
    assert np.abs(statistics.normalize(actions, clip=False)).max() < 1.1
    np.testing.assert_allclose(labels[30, 1], 1.0, atol=1e-6)
    np.testing.assert_allclose(statistics.unnormalize(labels)[:, 1], actions[:, 1], atol=1e-7)


def test_outliers_do_not_reach_a_world_model():
    """Of one faulty step in 2000 the quantiles know nothing, and the labels stay as they are."""
    actions = np.random.default_rng(0).uniform(-0.01, 0.01, (2000, 1))
    actions[7] = 40.0
    statistics = ActionStatistics.from_actions(actions)
    assert not statistics.rare_A.any()
    assert np.abs(statistics.normalize(actions, clip=False)).max() == LIMIT
    assert np.std(statistics.normalize(actions)) > 0.5


@pytest.mark.parametrize("noise", [0.0, 1e-9])
@pytest.mark.parametrize("masked", [True, False])
def test_a_constant_comes_back(noise, masked):
    actions = 0.3 + noise * np.random.default_rng(0).normal(size=(100, 1))
    statistics = ActionStatistics.from_actions(actions, np.array([masked]))
    labels = statistics.normalize(actions)
    np.testing.assert_array_equal(labels, 0.0)
    for label in (labels, np.full_like(labels, 0.9)):
        np.testing.assert_allclose(statistics.unnormalize(label), 0.3, atol=1e-7)


ENTRY = {"q01": [-0.5, 0.0], "q99": [0.5, 1.0], "mask": [True, False]}


def test_quantiles_and_mask_suffice():
    """What a folder of weights may hold; 1 and the gripper come back as they must."""
    statistics = ActionStatistics.from_json(ENTRY)
    actions = statistics.unnormalize(np.array([[1.0, 0.7], [-1.0, 0.0]]))
    np.testing.assert_allclose(actions, [[0.5, 0.7], [-0.5, 0.0]], atol=1e-7)
    assert statistics.to_json() == ENTRY


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"q99": [float("nan"), 1.0]}, "q99 of .* is not a row of finite numbers"),
        ({"max": [1.0, float("inf")]}, "max of .* is not a row of finite numbers"),
        ({"q01": ["a", "b"]}, "q01 of .* is not a row of numbers"),
        ({"q01": []}, "q01 of .* is not a row of finite numbers"),
        ({"q01": 0.5}, "q01 of .* is not a row of numbers"),
        ({"q01": ["0.1", "0.2"]}, "q01 of .* is not a row of numbers"),
        ({"q01": [False, True]}, "q01 of .* is not a row of numbers"),
        ({"q01": [[0.0, 0.0]]}, "q01 of .* is not a row of numbers"),
        ({"q99": [10**400, 1.0]}, "q99 of .* is not a row of finite numbers"),
        ({"q01": [0.0] * 3}, "rows of different lengths .*'q01': 3, 'q99': 2"),
        ({"mask": [True]}, "rows of different lengths"),
        ({"mask": []}, "rows of different lengths"),
        ({"mask": [0.5, 1]}, "mask of .* is not made of true and false"),
        ({"mask": {}}, "mask of .* is not made of true and false"),
        ({"mask": [[True], [True, False]]}, "mask of .* is not made of true and false"),
        ({"q01": [0.6, 0.0]}, "q01 above its q99"),
        ({"q99": None}, "q99 of .* is not a row"),
    ],
)
def test_statistics_without_meaning(tmp_path, change, sentence):
    path = tmp_path / "dataset_statistics.json"
    path.write_text(json.dumps({"arm": {"action": ENTRY | change}}))
    with pytest.raises(UserError, match=sentence):
        ActionStatistics.load(path, "arm")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"arm": {"proprio": ENTRY}}, "has no q01 and no q99"),
        ({"arm": {"action": [1, 2]}}, "has no q01 and no q99"),
        ({"arm": None}, "has no q01 and no q99"),
        ([ENTRY], "is not an object"),
    ],
)
def test_files_of_another_form(tmp_path, content, sentence):
    path = tmp_path / "dataset_statistics.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=sentence):
        ActionStatistics.load(path, "arm")
    path.write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        ActionStatistics.load(path, "arm")
