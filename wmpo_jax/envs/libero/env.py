"""A LIBERO suite, or some of its tasks, as a `HostEnvironment`.

Actions are [7]: three translations and three rotations in [-1, 1] for LIBERO's OSC_POSE, and the
gripper as the public data have it, 1 = open, 0 = closed (the environment turns it into LIBERO's
-1 and 1). Frames are agentview, turned by 180 degrees, as OpenVLA-OFT policies expect them.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from wmpo_jax.algorithm.protocols import ChunkOutcome, Observation
from wmpo_jax.envs.libero import golden
from wmpo_jax.envs.libero.pool import Start, WorkerPool
from wmpo_jax.envs.libero.protocol import (
    EvaluationProtocol,
    initial_states,
    language,
    make_protocol,
)
from wmpo_jax.envs.protocol import Episodes
from wmpo_jax.runtime.errors import UserError


class LiberoEnv:
    """The tasks of one suite; worker processes start when the first episode does.

    Args:
      suite: one of `protocol.HORIZONS`.
      image_size: height and width of a frame, pixels.
      options: `tasks` (numbers; none means all), `horizon` (actions; 0 means the suite's),
        `workers` (processes), `wave` (most episodes at once).
    """

    action_dim = 7

    def __init__(self, suite: str, image_size: int, options: Mapping[str, Any]) -> None:
        self._follow(
            make_protocol(
                suite, tuple(options["tasks"]), options["horizon"], image_size=image_size
            ),
            options,
        )
        self.instructions = tuple(language(suite, task) for task in self.evaluation.tasks)

    def _follow(self, protocol: EvaluationProtocol, options: Mapping[str, Any]) -> None:
        """Everything but the words, which each kind of suite finds elsewhere."""
        self.name = protocol.suite
        self.evaluation = protocol
        self.chunk = protocol.chunk
        # Whole chunks; what lies beyond the protocol's horizon is not executed.
        self.horizon = -(-protocol.horizon // self.chunk) * self.chunk
        self.image_size = protocol.image_size
        self.wave = options["wave"]
        self._workers = options["workers"]

    @cached_property
    def _pool(self) -> Any:  # a WorkerPool, or what promises the same
        """Refuses to begin where LIBERO is not the LIBERO that results are compared with."""
        golden.check()
        return WorkerPool(self.evaluation, self._workers)

    def instruction_ids(self, starts_B: np.ndarray) -> np.ndarray:
        starts_B = np.asarray(starts_B)
        numbers_B = np.where(starts_B < 0, -1 - starts_B, starts_B)
        return (numbers_B % len(self.instructions)).astype(np.int32)

    def held_out(self, start: int, count: int) -> np.ndarray:
        """Trial by trial, each over all tasks: what is cut short is still balanced."""
        available = len(initial_states(self.name, self.evaluation.tasks[0]))
        available *= len(self.instructions)
        if start + count > available:
            raise UserError(
                f"{self.name} stores {available} initial states for these tasks and "
                f"{start + count} are asked for: lower evaluate.episodes or add libero.tasks."
            )
        return np.arange(-1 - start, -1 - start - count, -1, dtype=np.int32)

    def reset(self, starts_B: np.ndarray) -> Observation:
        frames: Any = self._pool.reset([self._start(int(start)) for start in starts_B])
        self._goal_B: Any = self.instruction_ids(starts_B)
        return Observation(frame_BHWC=frames, instruction_id_B=self._goal_B)

    def step(self, actions_BKA: np.ndarray, videos: bool) -> tuple[Observation, ChunkOutcome]:
        results = self._pool.step(np.asarray(actions_BKA), "all" if videos else "last")
        frames = _column(results, "frames_KHWC")
        outcome = ChunkOutcome(
            frames_BKHWC=frames,
            success_BK=_column(results, "success_K"),
            invalid_B=_column(results, "invalid"),
        )
        return Observation(frame_BHWC=frames[:, -1], instruction_id_B=self._goal_B), outcome

    def states(self) -> list[dict[str, np.ndarray]]:
        """Joint positions and proprioception of the wave; see `simulator.Simulator.state`."""
        return self._pool.states()

    def record(
        self,
        starts_B: np.ndarray,
        actor: str,
        noise: float,
        on_batch: Callable[[int], None] = lambda episodes: None,
    ) -> Episodes:
        """Episodes one task after the other, so that few models are built; order as given."""
        instruction_id_B: Any = self.instruction_ids(starts_B)
        order = np.argsort(instruction_id_B, kind="stable")
        starts = [self._start(int(starts_B[b])) for b in order]
        results = self._pool.record(starts, actor, noise, self.horizon, on_batch)
        results = [results[place] for place in np.argsort(order)]
        return Episodes(
            frames_BTHWC=_column(results, "frames_THWC"),
            actions_BTA=_column(results, "actions_TA"),
            labels_BTA=_column(results, "labels_TA"),
            instruction_id_B=instruction_id_B,
            success_B=_column(results, "success"),
            finish_step_B=_column(results, "finish_step").astype(np.int32),
            invalid_B=_column(results, "invalid"),
        )

    def protocol(self) -> dict[str, Any]:
        return self.evaluation.describe() | {"sha256": self.evaluation.digest()}

    def report(self) -> dict[str, Any]:
        return self._pool.report()

    def close(self) -> None:
        """Ends the worker processes, if there are any."""
        if "_pool" in vars(self):
            self._pool.close()
            del self._pool

    def _start(self, start: int) -> Start:
        number = int(-1 - start if start < 0 else start)
        trial, place = divmod(number, len(self.instructions))
        task = self.evaluation.tasks[place]
        return Start(task, trial, 0) if start < 0 else Start(task, -1, number)


def _column(results: list[dict[str, Any]], name: str) -> Any:
    """One entry of all results, as a NumPy array with the batch in front."""
    return np.stack([result[name] for result in results])
