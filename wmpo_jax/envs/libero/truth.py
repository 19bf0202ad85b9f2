"""What LIBERO in C does: scenes, starts and whole episodes, for MJX to be compared with.

    python -m wmpo_jax.envs.libero.truth libero_spatial 0 episodes.npz --episodes=20

It brings robosuite, so it has a process of its own.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from wmpo_jax.envs.libero.benchmark import executed_action, make_protocol
from wmpo_jax.envs.libero.origin import scene, start
from wmpo_jax.envs.libero.scripts import expert, hand_position
from wmpo_jax.envs.libero.simulator import LiberoSimulator

# Noise on the expert's actions, episode by episode: careful ones succeed, wild ones fail.
NOISE = (0.05, 0.1, 0.2, 0.4)
_TURNS_LESS = np.array([1.0, 1.0, 1.0, 0.2, 0.2, 0.2])
AFTERWARDS = 15  # actions after the first success
LONGEST = 160  # actions; who has not succeeded by then has failed


def episode(simulator: LiberoSimulator, task: int, number: int) -> dict[str, np.ndarray]:
    """One noisy pick-and-place from stored initial state `number`, seen by no camera.

    Returns:
      The fields of `start`, and actions_TA (LIBERO's own), hand_T3 and thing_T3 (meters, after each
      action) and success_T (bool, at that moment).
    """
    simulator.reset(0, task, number, 0)
    simulator.mute()
    env = simulator.env.env
    rng = np.random.default_rng([task, number])
    actor = expert(simulator.env, rng)
    found = start(env)
    body = env.obj_body_id[env.parsed_problem["goal_state"][0][1]]
    rows: dict[str, list] = {"actions_TA": [], "hand_T3": [], "thing_T3": [], "success_T": []}
    left = None
    while len(rows["actions_TA"]) < LONGEST and left != 0:
        action = actor()
        action[:6] += NOISE[number % len(NOISE)] * _TURNS_LESS * rng.standard_normal(6)
        executed = executed_action(action)
        _, _, success, _ = simulator.env.step(executed)
        rows["actions_TA"].append(executed)
        rows["hand_T3"].append(hand_position(env))
        rows["thing_T3"].append(env.sim.data.body_xpos[body].copy())
        rows["success_T"].append(bool(success))
        left = left - 1 if left is not None else AFTERWARDS if success else None
    return found | {name: np.array(values) for name, values in rows.items()}


def record(suite: str, task: int, count: int) -> tuple[dict[str, Any], list[dict[str, np.ndarray]]]:
    """The scene of a task and `count` episodes from its first stored initial states."""
    simulator = LiberoSimulator(make_protocol(suite, (task,), image_size=16))
    episodes = [episode(simulator, task, number) for number in range(count)]
    found = scene(simulator.env.env)
    simulator.close()
    return found, episodes


def save(path: Path, found: dict[str, Any], episodes: Sequence[dict[str, np.ndarray]]) -> None:
    arrays = {f"{i}/{name}": value for i, one in enumerate(episodes) for name, value in one.items()}
    np.savez_compressed(path, allow_pickle=False, **found, **arrays)


def load(path: Path) -> tuple[dict[str, Any], list[dict[str, np.ndarray]]]:
    """What `save` wrote: the scene and its episodes."""
    with np.load(path) as file:
        found = {name: file[name] for name in file.files if "/" not in name}
        episodes: dict[int, dict[str, np.ndarray]] = {}
        for name in file.files:
            number, _, field = name.partition("/")
            if field:
                episodes.setdefault(int(number), {})[field] = file[name]
    scene_fields = {
        name: str(value) if value.ndim == 0 else tuple(map(str, value))
        for name, value in found.items()
    }
    return scene_fields, [episodes[number] for number in sorted(episodes)]


def original_model(found: dict[str, Any], first: dict[str, np.ndarray]) -> mujoco.MjModel:
    """The scene as C has it, fixtures where the reset has put them."""
    model = mujoco.MjSpec.from_string(found["xml"]).compile()
    model.body_pos[:] = first["body_pos"]
    model.body_quat[:] = first["body_quat"]
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite")
    parser.add_argument("task", type=int)
    parser.add_argument("file", type=Path)
    parser.add_argument("--episodes", type=int, default=20)
    flags = parser.parse_args()
    save(flags.file, *record(flags.suite, flags.task, flags.episodes))


if __name__ == "__main__":
    main()
