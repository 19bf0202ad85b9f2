"""The wave that MJX moves and workers draw, with stand-ins for both."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from wmpo_jax.envs.libero.benchmark import HORIZONS
from wmpo_jax.envs.libero_mjx import env as libero_mjx
from wmpo_jax.envs.libero_mjx import fidelity, physics
from wmpo_jax.envs.registry import make_reality
from wmpo_jax.envs.robosuite.pool import Start
from wmpo_jax.runtime.errors import UserError

JOINTS = 9


class Workers:
    """Draws the first joint as a gray level."""

    drawn = 0

    def reset(self, starts):
        self._count = len(starts)
        return np.zeros((self._count, 4, 4, 3), np.uint8)

    def ask(self, name):
        assert name == "origin"
        start = {
            "qpos": np.zeros(JOINTS),
            "qvel": np.zeros(JOINTS),
            "warmstart": np.zeros(JOINTS),
            "body_pos": np.zeros((1, 3)),
            "body_quat": np.zeros((1, 4)),
            "position": np.zeros(3),
            "rotation": np.eye(3),
            "posture": np.zeros(7),
            "fingers": np.zeros(2),
        }
        return [{"scene": {}, "start": start} for _ in range(self._count)]

    def draw(self, qpos_B):
        self.drawn += 1
        return np.stack([np.full((4, 4, 3), round(10 * qpos[0]), np.uint8) for qpos in qpos_B])


class Slide:
    """The first joint moves by the first action, the second repeats the gripper; 3 is success."""

    def begin(self, start):
        zero = jnp.zeros(3)
        return physics.State(
            start, zero, zero, jnp.zeros((), bool), jnp.zeros((), bool), jnp.int32(0)
        )

    def step(self, state, action_A):
        qpos = state.start.qpos.at[0].add(action_A[0]).at[1].set(action_A[6])
        return state.replace(
            start=state.start.replace(qpos=qpos), success=qpos[0] >= 3, step=state.step + 1
        )


@pytest.fixture
def pool(monkeypatch):
    monkeypatch.setattr(fidelity, "make_physics", lambda found, first: Slide())
    workers: Any = Workers()
    pool = libero_mjx.MjxPool(workers, horizon=6)
    pool.reset([Start(0, 0, 0), Start(0, 1, 0)])
    return pool


def actions(steps):
    """The first world goes full steps with an open hand, the second half ones with a closed."""
    chunk = np.zeros((2, steps, 7))
    chunk[0, :, 0], chunk[1, :, 0] = 1.0, 0.5
    chunk[0, :, 6] = 1.0
    return chunk


def test_nothing_moves_after_success_and_horizon(pool):
    results = pool.step(actions(8), "all")
    first, second = (result["frames_KHWC"][:, 0, 0, 0].tolist() for result in results)
    assert first == [10, 20, 30, 30, 30, 30, 30, 30]
    assert second == [5, 10, 15, 20, 25, 30, 30, 30]
    assert results[0]["success_K"].tolist() == [False, False, *[True] * 6]
    assert results[1]["success_K"].tolist() == [*[False] * 5, *[True] * 3]


def test_gripper_commands_are_in_liberos_units(pool):
    pool.step(actions(1), "none")
    assert [state["qpos"][1] for state in pool.states()] == [-1.0, 1.0]


def test_only_wanted_frames_are_drawn(pool):
    (result, _) = pool.step(actions(2), "last")
    assert pool._workers.drawn == 1
    assert result["frames_KHWC"][:, 0, 0, 0].tolist() == [0, 20]
    pool.step(actions(2), "none")
    assert pool._workers.drawn == 1


def reality(suite, **changes) -> Any:
    return make_reality(suite, 32, options(**changes))


def options(**changes):
    return {"tasks": (0,), "horizon": 0, "workers": 1, "wave": 2} | changes


def test_results_say_whose_physics_it_was():
    suite = next(iter(HORIZONS))
    ours = reality(suite, physics="mjx").protocol()
    theirs = reality(suite).protocol()
    assert ours["physics"] == "mjx" and ours["sha256"] != theirs["sha256"]


def test_unknown_physics_are_refused():
    with pytest.raises(UserError, match="choose of c, mjx"):
        reality("libero_spatial", physics="bullet")


def test_a_task_that_was_not_compared_does_not_run():
    with pytest.raises(UserError, match="never compared"):
        reality("libero_goal", physics="mjx")
