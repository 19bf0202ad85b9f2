"""Workers may die or hang: the episodes go on as if nothing had happened, and it is counted."""

import dataclasses
import os
import signal

import numpy as np
import pytest

from wmpo_jax.envs.libero.benchmark import make_protocol
from wmpo_jax.envs.robosuite import environment
from wmpo_jax.envs.robosuite.pool import Start, WorkerPool
from wmpo_jax.runtime.errors import UserError

STARTS = [Start(0, 0, 0), Start(0, -1, 11), Start(0, 4, 0)]  # slots 0 and 2 share a worker


def chunk(number):
    rng = np.random.default_rng(number)
    return rng.uniform(-1.0, 1.0, (len(STARTS), 4, 7))


def play(pool, disturb=lambda: None):
    """Frames and joint positions after two chunks; `disturb` is called between them."""
    first = pool.reset(STARTS)
    pool.step(chunk(0), "last")
    disturb()
    results = pool.step(chunk(1), "last")
    return first, [r["frames_KHWC"][-1] for r in results], [s["qpos"] for s in pool.states()]


@pytest.fixture(scope="module")
def undisturbed(pool):
    return play(pool)


@pytest.mark.slow
def test_frames_that_were_not_requested_are_not_drawn(pool, undisturbed):
    first = undisturbed[0]
    assert first.shape == (3, 64, 64, 3) and first.dtype == np.uint8
    pool.reset(STARTS)
    all_drawn = pool.step(chunk(0), "all")
    pool.reset(STARTS)
    last_drawn = pool.step(chunk(0), "last")
    for every, one in zip(all_drawn, last_drawn, strict=True):
        np.testing.assert_array_equal(every["frames_KHWC"][-1], one["frames_KHWC"][-1])
        assert (one["frames_KHWC"][:-1] == one["frames_KHWC"][:1]).all()
        assert (every["frames_KHWC"][0] != every["frames_KHWC"][-1]).any()


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_its_episodes_repeated(pool, undisturbed):
    before = pool.report()

    def kill():
        os.kill(pool._workers[0].process.pid, signal.SIGKILL)

    for found, expected in zip(play(pool, kill), undisturbed, strict=True):
        np.testing.assert_array_equal(found, expected)
    after = pool.report()
    assert after["replaced_workers"] == before["replaced_workers"] + 1
    assert after["repeated_episodes"] == before["repeated_episodes"] + 2


@pytest.mark.slow
def test_a_stuck_worker_is_replaced(pool, undisturbed, monkeypatch):
    before = pool.report()["replaced_workers"]

    def stop():
        os.kill(pool._workers[1].process.pid, signal.SIGSTOP)
        patient = dataclasses.replace(pool._timeouts, step=5.0)
        monkeypatch.setattr(pool, "_timeouts", patient)

    for found, expected in zip(play(pool, stop), undisturbed, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert pool.report()["replaced_workers"] > before


@pytest.mark.slow
def test_a_recorded_episode_has_the_declared_form_and_repeats(pool):
    (episode,) = pool.record([Start(0, -1, 3)], "expert", 0.1, 8, lambda count: None)
    again = pool.record([Start(0, -1, 3)] * 2, "expert", 0.1, 8, lambda count: None)[1]
    assert episode["frames_THWC"].shape == (9, 64, 64, 3)
    assert episode["actions_TA"].shape == episode["labels_TA"].shape == (8, 7)
    assert np.abs(episode["actions_TA"]).max() <= 1.0
    assert (episode["actions_TA"][:, :6] != episode["labels_TA"][:, :6]).any()
    assert episode["finish_step"] == 8 and not episode["success"] and not episode["invalid"]
    np.testing.assert_array_equal(episode["actions_TA"], again["actions_TA"])
    np.testing.assert_array_equal(episode["frames_THWC"], again["frames_THWC"])


def test_renderers_that_cannot_draw_are_named_with_a_cure(monkeypatch):
    variables = environment.variables
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(environment, "variables", lambda _: variables("nonsense"))
    with pytest.raises(UserError, match=r"no renderer \(egl: .*; osmesa: .*\): apt-get install"):
        WorkerPool(make_protocol("libero_spatial"), 1)


def test_the_second_renderer_is_taken_where_the_first_fails(monkeypatch):
    variables = environment.variables

    def broken_egl(renderer):
        return variables("osmesa" if renderer == "osmesa" else "nonsense")

    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(environment, "variables", broken_egl)
    pool = WorkerPool(make_protocol("libero_spatial"), 1)
    pool.close()
    assert pool.renderer == "osmesa"
