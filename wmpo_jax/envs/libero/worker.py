"""A process that simulates LIBERO for `pool.WorkerPool`; it ends when its pool does.

    python -m wmpo_jax.envs.libero.worker FD

FD is an open socket. First comes the protocol, and "ready" is answered once a picture can be drawn;
then lists of (method of `Desk`, arguments), each answered with the list of results. Whatever goes
wrong ends the process with a traceback, which the pool finds in its log.
"""

import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from wmpo_jax.envs.libero.protocol import EvaluationProtocol
from wmpo_jax.envs.libero.scripts import ACTORS
from wmpo_jax.envs.libero.simulator import Simulator
from wmpo_jax.envs.mimicgen.protocol import MimicgenProtocol
from wmpo_jax.envs.mimicgen.simulator import MimicgenSimulator

_LONE = -1  # the slot of episodes that are recorded in one go


class Desk:
    """What a pool may ask for."""

    def __init__(self, protocol: EvaluationProtocol) -> None:
        mimicgen = isinstance(protocol, MimicgenProtocol)
        self._simulator = MimicgenSimulator(protocol) if mimicgen else Simulator(protocol)
        self._horizon = protocol.horizon
        self.reset = self._simulator.reset
        self.step = self._simulator.step
        self.state = self._simulator.state
        self.origin = self._simulator.origin
        self.draw = self._simulator.draw

    def record(
        self, task: int, init: int, seed: int, actor: str, noise: float, steps: int
    ) -> dict[str, Any]:
        """A whole scripted episode of `steps` actions; after its end the hand stands still.

        Returns:
          frames_THWC uint8, T = steps + 1; actions_TA as executed and labels_TA as meant, float32
          [steps, 7]; success, finish_step, invalid.
        """
        simulator, rng = self._simulator, np.random.default_rng(seed)
        frames = [simulator.reset(_LONE, task, init, seed)]
        act = ACTORS[actor](simulator.env, rng)
        episode = simulator.episode(_LONE)
        labels, actions = [], []
        for _ in range(steps):
            alive = simulator.alive(episode)
            label = act() if alive else np.append(np.zeros(6), labels[-1][6])
            tremor = noise * np.append(rng.standard_normal(6), 0.0) * alive
            labels.append(label)
            actions.append(np.clip(label + tremor, -1.0, 1.0))
            if alive:
                simulator.advance(episode, actions[-1], draw=True)
            frames.append(episode.frame)
        return {
            "frames_THWC": np.stack(frames),
            "actions_TA": np.array(actions, np.float32),
            "labels_TA": np.array(labels, np.float32),
            "success": episode.success,
            "finish_step": episode.step if episode.success else steps,
            "invalid": episode.invalid,
        }


def draw_something() -> None:
    """Raises where robosuite's renderer cannot work (MUJOCO_GL says which one is meant)."""
    from robosuite.utils.binding_utils import GLContext

    context = GLContext(max_width=64, max_height=64)
    context.make_current()
    context.free()


def main(descriptor: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who started us
    with Connection(descriptor) as connection:
        desk = Desk(connection.recv())
        draw_something()
        connection.send("ready")
        while True:
            try:
                requests = connection.recv()
            except EOFError:
                return
            connection.send([getattr(desk, name)(*arguments) for name, arguments in requests])


if __name__ == "__main__":
    main(int(sys.argv[1]))
