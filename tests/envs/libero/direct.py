"""LIBERO called as its own examples call it, and our simulator with other episodes between.

    python -m tests.envs.libero.direct SUITE [SUITE ...]

Prints one JSON line per suite: the largest differences over 50 random actions. A process of its
own, because robosuite changes the environment of the process that imports it.
"""

import json
import sys

import numpy as np
from libero.libero.envs import OffScreenRenderEnv  # pyright: ignore[reportMissingImports]

from wmpo_jax.envs.libero.benchmark import bddl_file, initial_states, make_protocol
from wmpo_jax.envs.libero.simulator import LiberoSimulator

TASK, INIT, SIZE = 1, 3, 256
STEPS = 50


def actions() -> np.ndarray:
    """Uniform; the gripper in the data's convention, 1 = open."""
    rng = np.random.default_rng(0)
    motion = rng.uniform(-1.0, 1.0, (STEPS, 6))
    return np.column_stack([motion, rng.integers(0, 2, STEPS)])


def called_directly(suite: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """(turned agentview, proprioception) after the settle steps and after each action."""
    env = OffScreenRenderEnv(
        bddl_file_name=str(bddl_file(suite, TASK)), camera_heights=SIZE, camera_widths=SIZE
    )
    env.seed(0)
    env.reset()
    env.set_init_state(initial_states(suite, TASK)[INIT])
    for _ in range(10):
        seen = env.step([0.0] * 6 + [-1.0])[0]
    video = [seen]
    for action in actions():
        gripper = -1.0 if action[6] == 1 else 1.0
        video.append(env.step(np.append(action[:6], gripper))[0])
    env.close()
    return [(s["agentview_image"][::-1, ::-1], s["robot0_proprio-state"]) for s in video]


def simulated(suite: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """The same episode in slot 0, while two others take turns with it."""
    simulator = LiberoSimulator(make_protocol(suite, image_size=SIZE))
    simulator.reset(1, TASK, -1, 5)
    frame = simulator.reset(0, TASK, INIT, 0)
    video = [(frame, simulator.state(0)["proprio"])]
    for number, action in enumerate(actions()):
        result = simulator.step(0, action[None], "all")
        video.append((result["frames_KHWC"][0], simulator.state(0)["proprio"]))
        if number % 16 == 7:
            simulator.step(1, actions()[:2], "last")
    simulator.close()
    return video


def main(suites: list[str]) -> None:
    for suite in suites:
        pairs = list(zip(called_directly(suite), simulated(suite), strict=True))
        pixels = max(int(np.abs(a.astype(int) - b).max()) for (a, _), (b, _) in pairs)
        proprio = max(float(np.abs(a - b).max()) for (_, a), (_, b) in pairs)
        moved = float(np.abs(pairs[0][0][1] - pairs[-1][0][1]).max())
        line = {"suite": suite, "pixels": pixels, "proprio": proprio, "moved": moved}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
