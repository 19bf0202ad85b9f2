"""A process that simulates for `pool.WorkerPool`; it ends when its pool does.

    python -m wmpo_jax.envs.libero.worker FD

FD is an open socket. First comes the protocol, and "ready" is answered once a picture can be drawn;
then lists of (method of `Desk`, arguments), each answered with the list of results. Whatever goes
wrong ends the process with a traceback, whose end the pool reports.
"""

import signal
import sys
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from wmpo_jax.envs.robosuite.benchmark import EvaluationProtocol
from wmpo_jax.envs.robosuite.simulator import Simulator

_LONE = -1  # the slot of episodes that are recorded in one go


class Desk:
    """What a pool may ask for: methods of the simulator, and `record`."""

    def __init__(self, simulator: Simulator, actors: Mapping[str, Callable[..., Any]]) -> None:
        self._simulator = simulator
        self._actors = actors

    def answer(self, name: str, arguments: tuple) -> Any:
        owner = self if name == "record" else self._simulator
        return getattr(owner, name)(*arguments)

    def record(
        self, task: int, init: int, seed: int, actor: str, noise: float, steps: int
    ) -> dict[str, Any]:
        """A whole scripted episode of `steps` actions; after its end the hand stands still.

        Returns:
          frames_THWC uint8, T = steps + 1; actions_TA as executed and labels_TA as intended,
          float32 [steps, 7]; success, finish_step, invalid.
        """
        simulator, rng = self._simulator, np.random.default_rng(seed)
        frames = [simulator.reset(_LONE, task, init, seed)]
        act = self._actors[actor](simulator.env, rng)
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
    from robosuite.utils.binding_utils import GLContext  # pyright: ignore[reportMissingImports]

    context = GLContext(max_width=64, max_height=64)
    context.make_current()
    context.free()


def serve(
    simulator: Callable[[EvaluationProtocol], Simulator],
    actors: Mapping[str, Callable[..., Any]],
    prepare: Callable[[EvaluationProtocol], Any],
) -> None:
    """The program of a suite's `worker` module.

    Args:
      simulator: of the protocol that the pool sends.
      actors: scripted motion for `Desk.record`, made from an environment and a generator.
      prepare: imports what the protocol needs; raises UserError where it is not there.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    with Connection(int(sys.argv[1])) as connection:
        protocol = connection.recv()
        prepare(protocol)
        desk = Desk(simulator(protocol), actors)
        draw_something()
        connection.send("ready")
        while True:
            try:
                requests = connection.recv()
            except EOFError:
                return
            connection.send([desk.answer(name, arguments) for name, arguments in requests])
