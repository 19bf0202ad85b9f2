"""What robosuite does in a few control steps of LIBERO, written down for MJX to repeat.

    python -m tests.envs.libero_mjx.recorder FILE

In a process of its own, because it brings robosuite. FILE is what `truth.save` writes: an episode
of fixed actions, with what the controller read and answered at every substep.
"""

import sys
from pathlib import Path

import numpy as np

from wmpo_jax.envs.libero import truth
from wmpo_jax.envs.libero.benchmark import make_protocol
from wmpo_jax.envs.libero.origin import scene, start
from wmpo_jax.envs.libero.scripts import hand_position
from wmpo_jax.envs.libero.simulator import LiberoSimulator

STEPS = 12


def fixed_actions() -> np.ndarray:
    """[STEPS, 7], LIBERO's own: sway and turn, then only move; the hand closes half-way."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1.5, 1.5, (STEPS, 7))
    actions[STEPS // 2 :, 3:6] = 0.0
    actions[:, 6] = np.where(np.arange(STEPS) < STEPS // 2, -1.0, 1.0)
    return actions


def listen(controller, rows: dict[str, list]) -> None:
    """Writes down each call of the controller: what it read, what it wanted, what came out."""
    answer = controller.run_controller

    def heard() -> np.ndarray:
        found = answer()
        rows["torques"].append(found.copy())
        rows["position"].append(controller.ee_pos.copy())
        rows["rotation"].append(controller.ee_ori_mat.copy())
        rows["jacobian"].append(controller.J_full.copy())
        rows["mass"].append(controller.mass_matrix.copy())
        rows["bias"].append(controller.torque_compensation.copy())
        rows["angle"].append(controller.joint_pos.copy())
        rows["speed"].append(controller.joint_vel.copy())
        rows["goal_position"].append(controller.goal_pos.copy())
        rows["goal_rotation"].append(controller.goal_ori.copy())
        return found

    controller.run_controller = heard


def main() -> None:
    simulator = LiberoSimulator(make_protocol("libero_spatial", (0,), image_size=16))
    simulator.reset(0, 0, 0, 0)
    env, data = simulator.env.env, simulator.env.sim.data
    episode = start(env)
    rows: dict[str, list] = {
        name: []
        for name in (
            *("torques", "position", "rotation", "jacobian", "mass", "bias", "angle", "speed"),
            *("goal_position", "goal_rotation", "fingers_T2", "ctrl_TU"),
            *("actions_TA", "hand_T3", "thing_T3", "success_T"),
        )
    }
    robot = env.robots[0]
    listen(robot.controller, rows)
    for action in fixed_actions():
        simulator.env.step(action)
        rows["actions_TA"].append(action)
        rows["hand_T3"].append(hand_position(env))
        rows["thing_T3"].append(data.body_xpos[env.obj_body_id["akita_black_bowl_1"]].copy())
        rows["success_T"].append(False)
        rows["fingers_T2"].append(robot.gripper.current_action.copy())
        rows["ctrl_TU"].append(data.ctrl.copy())
    heard = {f"heard_{name}" if name.islower() else name: np.array(r) for name, r in rows.items()}
    truth.save(Path(sys.argv[1]), scene(env), [episode | heard])
    simulator.close()


if __name__ == "__main__":
    main()
