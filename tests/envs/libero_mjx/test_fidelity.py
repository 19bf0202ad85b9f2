"""A control step in MJX is one in C; and what may run is what was seen to agree."""

import dataclasses
import json

import numpy as np
import pytest

from wmpo_jax.envs.libero_mjx import fidelity
from wmpo_jax.runtime.errors import UserError


def test_mjx_repeats_what_c_did(recorded):
    found, episode = recorded
    states = fidelity.replay(fidelity.make_physics(found, episode), [episode])
    hand = np.stack([state.hand[0] for state in states])
    thing = np.stack([state.thing[0] for state in states])
    assert np.linalg.norm(np.ptp(episode["hand_T3"], axis=0)) > 0.02
    np.testing.assert_allclose(hand, episode["hand_T3"], atol=2e-4)
    np.testing.assert_allclose(thing, episode["thing_T3"], atol=5e-4)
    assert not states[-1].invalid.any() and not states[-1].success.any()
    found_errors = fidelity.compare(0, [episode], states)
    assert found_errors.agree == 1 and found_errors.hand_mm[-1] < 0.2


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A table of which the last row is one outcome short."""
    good = fidelity.Fidelity(0, 20, 10, 9, 19, (0.1,), (1.0,), (2.0,), 0)
    rows = [good, dataclasses.replace(good, task=1, agree=18)]
    rows.append(dataclasses.replace(good, task=2, successes=0, agree=20))
    rows.append(dataclasses.replace(good, task=3, episodes=10, agree=10))
    file = tmp_path / "fidelity.json"
    file.write_text(json.dumps({"libero_spatial": [dataclasses.asdict(row) for row in rows]}))
    monkeypatch.setattr(fidelity, "FILE", file)


def test_a_task_that_agrees_may_run(measured):
    fidelity.check_supported("libero_spatial", 0)


@pytest.mark.parametrize("task", [1, 2, 3])
def test_a_task_that_does_not_is_refused(measured, task):
    with pytest.raises(UserError, match=rf"task {task} is not supported .* choose of \[0\]"):
        fidelity.check_supported("libero_spatial", task)


def test_a_task_that_nobody_compared_is_refused(measured):
    with pytest.raises(UserError, match="never compared"):
        fidelity.check_supported("libero_goal", 0)
