"""What another simulator has to know to go on from where LIBERO's is: the scene and its state."""

from typing import Any

import numpy as np

from wmpo_jax.runtime.errors import UserError


def scene(env: Any) -> dict[str, Any]:
    """What `libero_mjx.scene` and `libero_mjx.physics.Goal` want to know of an environment.

    Returns:
      xml: the scene as robosuite compiles it. thing, target: bodies of the goal On(thing, target).
      thing_geoms, target_geoms: names of the geoms they touch with.
    Raises:
      UserError: the goal is another one.
    """
    goals = env.parsed_problem["goal_state"]
    if len(goals) != 1 or goals[0][0] != "on" or goals[0][2] not in env.obj_body_id:
        raise UserError(
            f"LIBERO in MJX knows goals of one kind, a thing on a thing, and this is {goals}: "
            "choose tasks of libero_spatial."
        )
    _, thing, target = goals[0]
    model = env.sim.model._model
    found = {"xml": env.model.get_xml()}
    for role, name in (("thing", thing), ("target", target)):
        found[role] = model.body(env.obj_body_id[name]).name
        found[f"{role}_geoms"] = tuple(env.get_object(name).contact_geoms)
    return found


def start(env: Any) -> dict[str, np.ndarray]:
    """The fields of `libero_mjx.physics.Start` and of its `memory`, as they are in C now."""
    model, data = env.sim.model._model, env.sim.data._data
    controller = env.robots[0].controller
    return {
        "qpos": data.qpos.copy(),
        "qvel": data.qvel.copy(),
        "warmstart": data.qacc_warmstart.copy(),
        "body_pos": model.body_pos.copy(),
        "body_quat": model.body_quat.copy(),
        "position": np.array(controller.goal_pos),
        "rotation": np.array(controller.goal_ori),
        "posture": np.array(controller.initial_joint),
        "fingers": np.array(env.robots[0].gripper.current_action),
    }
