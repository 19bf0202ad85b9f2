"""The recipes of Open X-Embodiment, on steps made up in the datasets' layouts."""

import numpy as np
import pytest

from wmpo_jax.data import openx
from wmpo_jax.data.episodes import BadEpisode

N = 6
RNG = np.random.default_rng(0)
VECTOR, ROTATION = RNG.normal(size=(N, 3)), RNG.normal(size=(N, 3))
CLOSED = np.array([0.0, 0.2, 1.0, 1.3, -0.5, 1.0])


def row(*numbers: float) -> np.ndarray:
    return np.array(numbers)


@pytest.mark.parametrize(
    ("closing", "states"),
    [
        (row(0, 0, 1, 0, -1, 0), row(1, 1, 0, 0, 1, 1)),
        (row(0, -1, 0, 0.05, 1, 0), row(0, 1, 1, 1, 0, 0)),
        (row(0, 0, 0, 0, 0, 0), row(1, 1, 1, 1, 1, 1)),
    ],
)
def test_relative_grippers_become_states(closing, states):
    np.testing.assert_array_equal(openx.settle_relative_gripper(closing), states)


@pytest.mark.parametrize(
    ("opening", "states"),
    [
        (row(1, 0.5, 0.3, 0, 0.4, 0.99), row(1, 0, 0, 0, 1, 1)),
        (row(1, 1, 0.5, 0.6), row(1, 1, 0.6, 0.6)),  # the end decides where nothing follows
        (row(0.5, 0.4), row(0.4, 0.4)),
    ],
)
def test_absolute_grippers_become_states(opening, states):
    np.testing.assert_array_equal(openx.settle_absolute_gripper(opening), states)


PARTS = {"world_vector": VECTOR, "rotation_delta": ROTATION}
SEVEN = np.concatenate([VECTOR, ROTATION, CLOSED[:, None]], axis=1)
GRIPPERS = {  # recipe -> (action, gripper of the result)
    "libero": (SEVEN, 1 - CLOSED.clip(0, 1)),
    "utaustin_mutex": (SEVEN, 1 - CLOSED.clip(0, 1)),
    "dlr_edan_shared_control_converted_externally_to_rlds": (SEVEN, 1 - CLOSED),
    "taco_play": ({"rel_actions_world": SEVEN}, CLOSED.clip(0, 1)),
    "fractal20220817_data": (
        {**PARTS, "gripper_closedness_action": row(0, 1, 0, 0, -1, 0)[:, None]},
        row(1, 0, 0, 0, 1, 1),
    ),
    "berkeley_autolab_ur5": (
        {**PARTS, "gripper_closedness_action": row(0, 1, 0, 0, -1, 0)},
        row(1, 0, 0, 0, 1, 1),
    ),
    "viola": ({**PARTS, "gripper_closedness_action": CLOSED}, 1 - CLOSED.clip(0, 1)),
    "toto": ({**PARTS, "open_gripper": CLOSED > 0.5}, (CLOSED > 0.5).astype(float)),
    "berkeley_cable_routing": (PARTS, np.zeros(N)),
    "bc_z": (
        {
            "future/xyz_residual": np.tile(VECTOR, 10),
            "future/axis_angle_residual": np.tile(ROTATION, 10),
            "future/target_close": np.tile((CLOSED > 0.5).astype(np.int64)[:, None], 10),
        },
        1 - (CLOSED > 0.5),
    ),
}


@pytest.mark.parametrize("recipe", GRIPPERS)
def test_seven_numbers(recipe):
    action, gripper = GRIPPERS[recipe]
    found = openx.actions({"action": action, "observation": {}}, recipe, "here")
    expected = np.concatenate([VECTOR, ROTATION, gripper[:, None]], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_jaco_has_no_rotation():
    parts = {"world_vector": VECTOR, "gripper_closedness_action": np.zeros((N, 1))}
    found = openx.actions({"action": parts}, "jaco_play", "here")
    np.testing.assert_array_equal(found[:, 3:6], 0.0)


def test_quaternions_become_euler_angles():
    half = np.sqrt(0.5)
    turn_z = np.tile(row(1, 2, 3, 0, 0, half, half, 1), (N, 1))
    found = openx.actions(
        {"action": turn_z}, "iamlab_cmu_pickup_insert_converted_externally_to_rlds", "here"
    )
    np.testing.assert_allclose(found[0], [1, 2, 3, 0, 0, np.pi / 2, 1], atol=1e-6)


def test_bridge_moves_as_its_state_did():
    """The first step is left out, and the last has nothing to move to."""
    state = np.concatenate([VECTOR, ROTATION, CLOSED[:, None]], axis=1)
    action = np.concatenate([np.zeros((N, 6)), row(1, 1, 0, 0, 0.5, 1)[:, None]], axis=1)
    found = openx.actions({"action": action, "observation": {"state": state}}, "bridge_orig", "")
    assert found.shape == (N - 2, 7) and openx.skip("bridge_orig") == 1
    np.testing.assert_allclose(found[:, :3], VECTOR[2:] - VECTOR[1:-1], rtol=1e-6)
    np.testing.assert_array_equal(found[:, 6], [1, 0, 0, 1])


def test_every_dataset_of_the_mixture_has_a_recipe():
    assert set(openx.MAGIC_SOUP_PLUS_MINUS) == set(openx.RECIPES) - {"libero"}
    assert len(openx.MAGIC_SOUP_PLUS_MINUS) == 25


def test_actions_that_do_not_fit_are_bad_episodes():
    with pytest.raises(BadEpisode, match="name a recipe"):
        openx.actions({"action": PARTS}, "", "here")
    with pytest.raises(BadEpisode, match="does not fit the recipe toto"):
        openx.actions({"action": PARTS}, "toto", "here")
    with pytest.raises(BadEpisode, match="no recipe totto"):
        openx.actions({"action": PARTS}, "totto", "here")
