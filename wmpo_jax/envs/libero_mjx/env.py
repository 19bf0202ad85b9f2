"""LIBERO with MJX for its physics and its own renderer for its pictures.

Only tasks whose outcomes were seen to be those of LIBERO in C may run (`fidelity`). Scripted
demonstrations and play come from C all the same: their authors read robosuite's objects.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wmpo_jax.envs.libero.benchmark import executed_action
from wmpo_jax.envs.libero.env import LiberoEnv
from wmpo_jax.envs.libero_mjx import fidelity
from wmpo_jax.envs.libero_mjx.physics import Physics, State
from wmpo_jax.envs.robosuite.pool import Start, WorkerPool


class LiberoMjxEnv(LiberoEnv):
    """See `LiberoEnv`; starts are LIBERO's, stored or drawn, after its settle steps in C."""

    def __init__(self, suite: str, image_size: int, options: Mapping[str, Any]) -> None:
        super().__init__(suite, image_size, options)
        for task in self.evaluation.tasks:
            fidelity.check_supported(suite, task)

    @cached_property
    def _pool(self) -> "MjxPool":
        return MjxPool(super()._pool, self.evaluation.horizon)

    def protocol(self) -> dict[str, Any]:
        found = self.evaluation.describe() | {"physics": "mjx"}
        digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
        return found | {"sha256": digest}


class MjxPool:
    """What `WorkerPool` promises: MJX moves the wave, the workers draw it."""

    def __init__(self, workers: WorkerPool, horizon: int) -> None:
        self._workers = workers
        self._horizon = horizon
        self._task: int | None = None
        self._state: Any = None

    def reset(self, starts: Sequence[Start]) -> np.ndarray:
        """Begins a wave of one task: frames uint8 [B, H, W, 3]."""
        self._frames = self._workers.reset(starts)
        origins = self._workers.ask("origin")
        begun = [origin["start"] for origin in origins]
        if starts[0].task != self._task:
            self._build(starts[0].task, fidelity.make_physics(origins[0]["scene"], begun[0]))
        self._state = self._begin(fidelity.stacked_starts(begun))
        return self._frames

    def step(self, actions_BKA: np.ndarray, draw: str) -> list[dict[str, Any]]:
        """A chunk of every episode of the wave; see `simulator.Simulator.step`."""
        frames, success = [], []
        last = actions_BKA.shape[1] - 1
        for k in range(last + 1):
            told_BA = np.stack([executed_action(action_A) for action_A in actions_BKA[:, k]])
            self._state = self._advance(self._state, told_BA.astype(np.float32))
            if draw == "all" or (draw == "last" and k == last):
                self._frames = self._workers.draw(list(np.asarray(self._state.start.qpos, float)))
            frames.append(self._frames)
            success.append(np.asarray(self._state.success))
        frames_BKHWC, success_BK = np.stack(frames, 1), np.stack(success, 1)
        return [
            {"frames_KHWC": frames_KHWC, "success_K": success_K, "invalid": bool(invalid)}
            for frames_KHWC, success_K, invalid in zip(
                frames_BKHWC, success_BK, np.asarray(self._state.invalid), strict=True
            )
        ]

    def states(self) -> list[dict[str, np.ndarray]]:
        """Joint positions of the wave."""
        return [{"qpos": qpos} for qpos in np.asarray(self._state.start.qpos)]

    def record(self, *job: Any) -> list[dict[str, Any]]:
        """In C; see `WorkerPool.record`."""
        return self._workers.record(*job)

    def report(self) -> dict[str, Any]:
        return self._workers.report() | {"physics": "mjx"}

    def close(self) -> None:
        self._workers.close()

    def _build(self, task: int, physics: Physics) -> None:
        def advance(state: State, action_A: jax.Array) -> State:
            """Nothing moves after success, breakdown or the horizon."""
            ended = state.success | state.invalid | (state.step >= self._horizon)
            moved = physics.step(state, action_A)
            return jax.tree.map(lambda old, new: jnp.where(ended, old, new), state, moved)

        self._begin = jax.jit(jax.vmap(physics.begin))
        self._advance = jax.jit(jax.vmap(advance))
        self._task = task
