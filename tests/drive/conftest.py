"""Worlds made of arithmetic, which answer at once."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wmpo_jax.algorithm.protocols import Observation
from wmpo_jax.drive.session import Session
from wmpo_jax.drive.starts import StoredStarts
from wmpo_jax.drive.worlds import Side, Turn

SIZE = 8
CHUNK = 4


class FakeWorlds:
    """A gray picture: the sum of the executed actions, around the seed; imagination is 3 darker."""

    env = SimpleNamespace(
        name="gray", action_dim=3, chunk=CHUNK, horizon=12, instructions=("be gray",)
    )
    policies = ("base",)
    threshold = 0.5

    def start(self, seed: int) -> tuple[Side, Side]:
        return self._side(float(seed)), self._side(float(seed))

    def act(self, policy: str, side: Side) -> Any:
        return jnp.full((1, CHUNK, 3), 2.0)

    def normalize(self, action_A: Any) -> Any:
        return jnp.broadcast_to(action_A, (1, CHUNK, 3))

    def step_real(self, side: Side, actions_BKA: Any) -> tuple[Side, Turn]:
        return self._step(side, actions_BKA, 0.0)

    def step_imagined(self, side: Side, actions_BKA: Any, key: jax.Array) -> tuple[Side, Turn]:
        return self._step(side, actions_BKA, 3.0)

    def _side(self, level: float) -> Side:
        frame = np.full((1, SIZE, SIZE, 3), level, np.uint8)
        seen = Observation(frame_BHWC=jnp.asarray(frame), instruction_id_B=jnp.zeros(1, jnp.int32))
        return Side(jnp.float32(level), seen, jnp.asarray(frame[:, None]))

    def _step(self, side: Side, actions_BKA: Any, darker: float) -> tuple[Side, Turn]:
        level = float(side.state) + float(actions_BKA.sum())
        turn = Turn(
            frames_KHWC=jnp.full((CHUNK, SIZE, SIZE, 3), level - darker, jnp.uint8),
            probability_K=jnp.linspace(0.0, 1.0, CHUNK),
            success_K=jnp.array([False, False, True, True]),
            invalid=jnp.array(False),
        )
        return self._side(level), turn


@pytest.fixture
def session() -> Session:
    outcomes = {"base": np.array([True, False, True])}
    starts = {
        "evaluation": StoredStarts(np.array([70, 80, 90]), outcomes),
        "demos": StoredStarts(np.array([10])),
    }
    return Session(FakeWorlds(), starts, "a run")  # pyright: ignore[reportArgumentType]
