"""Open X-Embodiment: how each dataset's actions become the seven that OpenVLA was trained on.

Those are the change of the gripper's position (3) and orientation (3, Euler angles or axis-angle,
as the dataset has it), and the gripper, where 1 is open and 0 is closed. The recipes and weights
are those of OpenVLA's data loader, which the reference's pre-training uses.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from wmpo_jax.data.episodes import BadEpisode

Steps = dict[str, Any]  # nested arrays with a leading time axis: action, observation, ...


@dataclass(frozen=True)
class Recipe:
    """How to read one dataset.

    Attributes:
      actions: from steps of length N to float [M, 7], one for each of the steps skip..skip + M - 1.
      camera: the view from outside.
      skip: steps to leave out at the beginning.
    """

    actions: Callable[[Steps], np.ndarray]
    camera: str = "image"
    skip: int = 0


def actions(steps: Steps, recipe: str, where: str) -> np.ndarray:
    """float32 [M, A] after a recipe, or as stored where recipe is "". Raises BadEpisode."""
    if not recipe:
        if isinstance(steps.get("action"), np.ndarray):
            return np.asarray(steps["action"], np.float32)
        parts = ", ".join(steps.get("action", {})) or "nothing"
        raise BadEpisode(f"{where} has actions made of {parts}: name a recipe for it")
    if recipe not in RECIPES:
        raise BadEpisode(f"there is no recipe {recipe}; choose from {', '.join(RECIPES)}")
    try:
        return np.asarray(RECIPES[recipe].actions(steps), np.float32)
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise BadEpisode(f"{where} does not fit the recipe {recipe} ({error!r})") from error


def camera(recipe: str) -> str:
    return RECIPES[recipe].camera if recipe in RECIPES else ""


def skip(recipe: str) -> int:
    return RECIPES[recipe].skip if recipe in RECIPES else 0


def settle_relative_gripper(closing_N: np.ndarray) -> np.ndarray:
    """From commands (> 0.1 closes, < -0.1 opens, else stay) to states, 1 open and 0 closed.

    Before the first command the gripper is in the state that the command ends.
    """
    command = np.where(closing_N < -0.1, 1.0, np.where(closing_N > 0.1, 0.0, np.nan))
    given = np.flatnonzero(~np.isnan(command))
    before = 1.0 - command[given[0]] if len(given) else 1.0
    latest = np.searchsorted(given, np.arange(len(command)), side="right") - 1
    return np.where(latest < 0, before, command[given[latest]] if len(given) else before)


def settle_absolute_gripper(opening_N: np.ndarray) -> np.ndarray:
    """From positions to states: above 0.95 open, below 0.05 closed, else what it is next."""
    settled = np.flatnonzero((opening_N > 0.95) | (opening_N < 0.05))
    following = np.searchsorted(settled, np.arange(len(opening_N)))
    states = np.append((opening_N[settled] > 0.95).astype(float), opening_N[-1])
    return states[following]


def _closedness(part: np.ndarray) -> np.ndarray:
    """Position of a gripper, 0 (or less) open and 1 closed -> 1 open and 0 closed."""
    return 1.0 - np.clip(part, 0.0, 1.0)


def _column(part: np.ndarray) -> np.ndarray:
    return np.asarray(part, np.float64).reshape(len(part), -1)[:, :1]


def _flipped(steps: Steps) -> np.ndarray:
    """Six numbers as they are, and a gripper that is 1 when closed."""
    action = steps["action"]
    return np.concatenate([action[:, :6], _closedness(action[:, -1:])], axis=1)


def _inverted(steps: Steps) -> np.ndarray:
    """As `_flipped`, for grippers that are not clipped."""
    action = steps["action"]
    return np.concatenate([action[:, :6], 1.0 - action[:, -1:]], axis=1)


def _as_is(steps: Steps) -> np.ndarray:
    return steps["action"]


def _without_last(steps: Steps) -> np.ndarray:
    """The last number says that the episode ends."""
    return steps["action"][:, :-1]


def _world(gripper: Callable[[np.ndarray], np.ndarray], key: str) -> Callable:
    """RT-1's parts: world_vector, rotation_delta and a gripper under `key`."""

    def of(steps: Steps) -> np.ndarray:
        parts = steps["action"]
        vector = parts["world_vector"]
        rotation = parts.get("rotation_delta", np.zeros_like(vector))
        return np.concatenate([vector, rotation, gripper(_column(parts[key]))], axis=1)

    return of


def _relative(column_N1: np.ndarray) -> np.ndarray:
    return settle_relative_gripper(column_N1[:, 0])[:, None]


def _bridge(steps: Steps) -> np.ndarray:
    """Motion is what the arm did, not its command; the first step's action is all zeros."""
    state, action = steps["observation"]["state"][1:], steps["action"][1:]
    gripper = settle_absolute_gripper(action[:, -1])
    return np.concatenate([np.diff(state[:, :6], axis=0), gripper[:-1, None]], axis=1)


def _taco(steps: Steps) -> np.ndarray:
    action = steps["action"]["rel_actions_world"]
    return np.concatenate([action[:, :6], np.clip(action[:, -1:], 0.0, 1.0)], axis=1)


def _cable(steps: Steps) -> np.ndarray:
    parts = steps["action"]
    vector = parts["world_vector"]
    return np.concatenate([vector, parts["rotation_delta"], np.zeros_like(vector[:, :1])], axis=1)


def _franka_play(steps: Steps) -> np.ndarray:
    action = steps["action"]
    return np.concatenate([action[:, -8:-2], np.clip(action[:, -2:-1], 0.0, 1.0)], axis=1)


def _bc_z(steps: Steps) -> np.ndarray:
    parts = steps["action"]
    vector, rotation = parts["future/xyz_residual"], parts["future/axis_angle_residual"]
    gripper = 1.0 - _column(parts["future/target_close"])
    return np.concatenate([vector[:, :3], rotation[:, :3], gripper], axis=1)


def _fanuc(steps: Steps) -> np.ndarray:
    gripper = 1.0 - steps["observation"]["state"][:, 6:7]
    return np.concatenate([steps["action"], gripper], axis=1)


def _quaternion(gripper: Callable[[np.ndarray], np.ndarray]) -> Callable:
    """Orientation as a quaternion x, y, z, w, becomes Euler angles about fixed x, y, z."""

    def of(steps: Steps) -> np.ndarray:
        action = steps["action"]
        angles = Rotation.from_quat(action[:, 3:7]).as_euler("xyz")
        return np.concatenate([action[:, :3], angles, gripper(action[:, 7:8])], axis=1)

    return of


_EXTERNAL = "_dataset_converted_externally_to_rlds"
_CLOSEDNESS = "gripper_closedness_action"

RECIPES: dict[str, Recipe] = {
    "libero": Recipe(_flipped),
    "fractal20220817_data": Recipe(_world(_relative, _CLOSEDNESS)),
    "kuka": Recipe(_world(_relative, _CLOSEDNESS)),
    "bridge_orig": Recipe(_bridge, "image_0", skip=1),
    "taco_play": Recipe(_taco, "rgb_static"),
    "jaco_play": Recipe(_world(_relative, _CLOSEDNESS)),
    "berkeley_cable_routing": Recipe(_cable),
    "roboturk": Recipe(_world(_closedness, _CLOSEDNESS), "front_rgb"),
    "viola": Recipe(_world(_closedness, _CLOSEDNESS), "agentview_rgb"),
    "berkeley_autolab_ur5": Recipe(_world(_relative, _CLOSEDNESS)),
    "toto": Recipe(_world(lambda gripper: gripper, "open_gripper")),
    f"stanford_hydra{_EXTERNAL}": Recipe(_inverted),
    f"austin_buds{_EXTERNAL}": Recipe(_flipped),
    f"nyu_franka_play{_EXTERNAL}": Recipe(_franka_play),
    f"furniture_bench{_EXTERNAL}": Recipe(_quaternion(_closedness)),
    f"ucsd_kitchen{_EXTERNAL}": Recipe(_without_last),
    f"austin_sailor{_EXTERNAL}": Recipe(_flipped),
    f"austin_sirius{_EXTERNAL}": Recipe(_flipped),
    "dlr_edan_shared_control_converted_externally_to_rlds": Recipe(_inverted),
    "iamlab_cmu_pickup_insert_converted_externally_to_rlds": Recipe(
        _quaternion(lambda gripper: gripper)
    ),
    "utaustin_mutex": Recipe(_flipped),
    "berkeley_fanuc_manipulation": Recipe(_fanuc),
    "cmu_stretch": Recipe(_without_last),
    "bc_z": Recipe(_bc_z),
    "fmb_dataset": Recipe(_as_is, "image_side_1"),
    "dobbe": Recipe(_as_is, "wrist_image"),  # it has no view from outside
}

# OpenVLA's weights of `oxe_magic_soup_plus_minus`; each multiplies the size of the dataset.
MAGIC_SOUP_PLUS_MINUS: dict[str, float] = {
    **dict.fromkeys((name for name in RECIPES if name != "libero"), 1.0),
    "kuka": 0.8341046294,
    "taco_play": 2.0,
    "roboturk": 2.0,
    "viola": 2.0,
    "berkeley_autolab_ur5": 2.0,
    f"stanford_hydra{_EXTERNAL}": 2.0,
    f"nyu_franka_play{_EXTERNAL}": 3.0,
    f"furniture_bench{_EXTERNAL}": 0.1,
    f"ucsd_kitchen{_EXTERNAL}": 2.0,
    "berkeley_fanuc_manipulation": 2.0,
    "bc_z": 0.2,
    "dobbe": 0.2,
}
