"""Statistics of actions: there and back again."""

import jax.numpy as jnp
import numpy as np
import pytest

from wmpo_jax.data.statistics import ActionStatistics
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
