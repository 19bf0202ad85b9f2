"""A benchmark that robosuite simulates, as a `HostEnvironment`: what LIBERO and MimicGen share."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from wmpo_jax.algorithm.protocols import ChunkOutcome, Observation
from wmpo_jax.envs.protocol import Episodes
from wmpo_jax.envs.robosuite import environment
from wmpo_jax.envs.robosuite.benchmark import EvaluationProtocol
from wmpo_jax.envs.robosuite.pool import Start, WorkerPool


class RobosuiteEnv:
    """Some tasks of one suite; worker processes start when the first episode does.

    Args:
      evaluation: how episodes are set up.
      instructions: what the policy reads, one per task.
      options: `workers` (processes), `wave` (most episodes at once).

    Raises:
      UserError: the simulators' Python environment is missing.
    """

    action_dim = 7

    def __init__(
        self,
        evaluation: EvaluationProtocol,
        instructions: tuple[str, ...],
        options: Mapping[str, Any],
    ) -> None:
        environment.interpreter()  # what is missing is said before anything begins
        self.name = evaluation.suite
        self.evaluation = evaluation
        self.instructions = instructions
        self.chunk = evaluation.chunk
        # Whole chunks; what is beyond the protocol's horizon is not executed.
        self.horizon = -(-evaluation.horizon // self.chunk) * self.chunk
        self.image_size = evaluation.image_size
        self.wave = options["wave"]
        self._workers = options["workers"]

    @cached_property
    def _pool(self) -> Any:  # a WorkerPool, or what promises the same
        self._check()
        return WorkerPool(self.evaluation, self._workers)

    def _check(self) -> None:
        """Raises UserError where results could not be compared with others'."""

    def held_out(self, start: int, count: int) -> np.ndarray:
        """Trial by trial, each over all tasks: what is cut short is still balanced."""
        return np.arange(-1 - start, -1 - start - count, -1, dtype=np.int32)

    def instruction_ids(self, starts_B: np.ndarray) -> np.ndarray:
        starts_B = np.asarray(starts_B)
        numbers_B = np.where(starts_B < 0, -1 - starts_B, starts_B)
        return (numbers_B % len(self.instructions)).astype(np.int32)

    def reset(self, starts_B: np.ndarray) -> Observation:
        frames: Any = self._pool.reset([self._start(int(start)) for start in starts_B])
        self._instruction_id_B: Any = self.instruction_ids(starts_B)
        return Observation(frame_BHWC=frames, instruction_id_B=self._instruction_id_B)

    def step(self, actions_BKA: np.ndarray, videos: bool) -> tuple[Observation, ChunkOutcome]:
        results = self._pool.step(np.asarray(actions_BKA), "all" if videos else "last")
        frames = _column(results, "frames_KHWC")
        outcome = ChunkOutcome(
            frames_BKHWC=frames,
            success_BK=_column(results, "success_K"),
            invalid_B=_column(results, "invalid"),
        )
        return Observation(
            frame_BHWC=frames[:, -1], instruction_id_B=self._instruction_id_B
        ), outcome

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
