"""The GRPO trainer in an environment of one decision: press the button that is lit."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from wmpo_jax.algorithm.grpo import token_log_probs
from wmpo_jax.algorithm.protocols import ChunkOutcome, Observation, PolicyOutput
from wmpo_jax.algorithm.rollout import rollout_groups
from wmpo_jax.runtime import preemption
from wmpo_jax.runtime.checkpoints import Checkpoints
from wmpo_jax.runtime.errors import Preempted, UserError
from wmpo_jax.runtime.mesh import make_mesh
from wmpo_jax.runtime.metrics import MetricWriter
from wmpo_jax.training import grpo
from wmpo_jax.training.fit import LoopFiles

BUTTONS, GROUP = 4, 8
CONFIG = ConfigDict({"mesh": {"data": -1, "fsdp": 1, "tensor": 1}})


class Buttons:
    """The frame's only pixel says which of four buttons to press; one chunk of one action."""

    def reset(self, start, key):
        frame = start[:, None, None, None].astype(jnp.uint8)
        return start, Observation(
            frame_BHWC=frame, instruction_id_B=jnp.zeros(len(start), jnp.int32)
        )

    def step(self, state, actions_BKA, key):
        solved = actions_BKA[:, :, 0] == state[:, None]
        frames = jnp.zeros((len(state), 1, 1, 1, 1), jnp.uint8)
        outcome = ChunkOutcome(
            frames_BKHWC=frames, success_BK=solved, invalid_B=jnp.zeros(len(state), bool)
        )
        return state, self.reset(state, key)[1], outcome


class Table:
    """A policy that is a table of logits, with the one call of a `Policy` that GRPO makes."""

    def logits(self, params, frames_BHWC, instruction_id_B):
        return params[frames_BHWC[:, 0, 0, 0]][:, None, None]

    def acting(self, params):
        def act(observation, key):
            logits = self.logits(params, observation.frame_BHWC, observation.instruction_id_B)
            tokens = jax.random.categorical(key, logits)
            log_probs, _ = token_log_probs(logits, tokens, 1.0)
            return PolicyOutput(
                tokens_BKA=tokens, actions_BKA=tokens.astype(jnp.float32), log_probs_BKA=log_probs
            )

        return act


def grpo_config(**changes):
    values: dict[str, Any] = dict(
        iterations=12,
        groups=8,
        group_size=GROUP,
        attempts=2,
        epochs=2,
        minibatch=32,
        learning_rate=0.2,
        weight_decay=0.0,
        grad_clip=1.0,
        clip_low=0.2,
        clip_high=0.28,
        temperature=1.0,
        checkpoint_every=3,
        require_mixed=True,
    )
    return grpo.GRPOConfig(**(values | changes))


def loop_files(folder):
    return LoopFiles(
        "improve",
        Checkpoints(folder / "checkpoints" / "improve"),
        lambda resume: MetricWriter(folder / "metrics", "improve", resume, False),
    )


def learn(folder, params=None, lit=True, watch=None, **changes):
    policy: Any = Table()
    world, mesh = Buttons(), make_mesh(CONFIG)

    @jax.jit
    def sample(params, starts, key):
        return rollout_groups(policy.acting(params), world, starts, key, 1, GROUP)

    def starts(first, count):
        buttons = (first + np.arange(count)) % BUTTONS if lit else np.full(count, BUTTONS)
        return jnp.asarray(buttons)

    params = jnp.zeros((BUTTONS + 1, BUTTONS)) if params is None else params
    config, key = grpo_config(**changes), jax.random.key(0)
    given = (loop_files(folder), mesh, params, policy, sample, starts, config, key)
    state, _ = grpo.optimize(*given, *([watch] if watch else []))
    return state


def test_learns_what_is_rewarded(tmp_path):
    state = learn(tmp_path / "run")
    right = jax.nn.softmax(state.params)[np.arange(BUTTONS), np.arange(BUTTONS)]
    assert right.min() > 0.6
    np.testing.assert_array_equal(state.params[BUTTONS], 0.0)  # a button never lit: no gradient
    assert int(state.episodes) == GROUP * int(state.starts)


def test_first_iteration_already_moves_the_policy(tmp_path):
    assert np.abs(learn(tmp_path / "run", iterations=1).params).max() > 0.1


def test_stopped_run_continues_with_the_same_bits(tmp_path, monkeypatch):
    whole = learn(tmp_path / "whole")
    answers = iter([False, True])
    monkeypatch.setattr(preemption, "stop_requested", lambda: next(answers))
    with pytest.raises(Preempted):
        learn(tmp_path / "parts")
    monkeypatch.setattr(preemption, "stop_requested", lambda: False)
    resumed = learn(tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)


def test_says_what_to_change_when_no_group_is_mixed(tmp_path):
    with pytest.raises(UserError, match=r"No group of 8 had both .* raise policy\.temperature"):
        learn(tmp_path / "run", lit=False)


def test_goes_on_without_mixed_groups_where_allowed(tmp_path):
    state = learn(tmp_path / "run", lit=False, iterations=2, require_mixed=False)
    np.testing.assert_array_equal(state.params, 0.0)
    assert int(state.starts) == 2 * 16


def test_nothing_left_to_learn_is_no_error(tmp_path):
    perfect = 50.0 * jnp.eye(BUTTONS + 1, BUTTONS)
    state = learn(tmp_path / "run", params=perfect, iterations=2)
    np.testing.assert_array_equal(state.params, perfect)


def test_too_few_mixed_groups_give_the_mean_of_those():
    """A batch filled up with repeated groups of weight 0 must not change the gradient."""
    few, many = (
        grpo_config(groups=1, minibatch=8, epochs=1),
        grpo_config(groups=2, minibatch=16, epochs=1),
    )
    table: Any = Table()
    params = jnp.zeros((BUTTONS + 1, BUTTONS))
    start, key = jnp.array([1]), jax.random.key(3)
    episodes = rollout_groups(table.acting(params), Buttons(), start, key, 1, GROUP)
    twice = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), episodes)
    results = []
    for settings, batch, weight in (
        (few, episodes, jnp.ones(8)),
        (many, twice, jnp.repeat(jnp.array([1.0, 0.0]), 8)),
    ):
        update = grpo.make_update(table, settings, make_mesh(CONFIG))
        _, _, metrics = update(
            params, settings.optimizer().init(params), batch, weight, jax.random.key(0)
        )
        results.append((metrics["loss"], metrics["grad_norm"]))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=1e-7)
    assert results[0][1] > 0


def test_a_loss_that_is_not_finite_stops_before_anything_is_saved(tmp_path):
    learn(tmp_path / "run", iterations=3)
    with pytest.raises(UserError, match=r"of stage improve is nan .*improve\.learning_rate"):
        learn(tmp_path / "run", iterations=6, learning_rate=float("nan"))
    assert Checkpoints(tmp_path / "run" / "checkpoints" / "improve").latest_step() == 3


class Alarm:
    """Stops after iteration 4 and counts how often it is asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, iteration, params):
        self.asked.append(iteration)
        return {"real_success": iteration / 10}, iteration == 4


def test_an_alarm_stops_at_a_checkpoint_for_good(tmp_path):
    alarm = Alarm()
    state = learn(tmp_path / "run", watch=alarm)
    assert int(state.iteration) == 4 and alarm.asked == [0, 1, 2, 3, 4]
    lines = (tmp_path / "run/metrics/improve.jsonl").read_text().splitlines()
    assert [json.loads(line)["improve/real_success"] for line in lines] == [0, 0.1, 0.2, 0.3, 0.4]
    jax.tree.map(np.testing.assert_array_equal, learn(tmp_path / "run", watch=alarm), state)
    assert alarm.asked[5:] == [4]


def test_watching_changes_nothing_of_what_is_learned(tmp_path):
    watched = learn(tmp_path / "watched", iterations=3, watch=Alarm())
    jax.tree.map(np.testing.assert_array_equal, watched, learn(tmp_path / "alone", iterations=3))


@pytest.mark.parametrize(
    ("mixed", "expected"),
    [
        ([], 8),  # nothing is known yet
        ([True] * 6 + [False] * 2, 4),  # 2 are missing, half a batch should give 3
        ([True] * 4 + [False] * 4, 8),  # 4 are missing, half a batch should give 2
        ([True] * 6 + [False] * 6, 4),  # all that `attempts` leaves
        ([False] * 8, 8),
    ],
)
def test_a_further_attempt_samples_what_is_missing(mixed, expected):
    assert grpo.next_attempt(grpo_config(), np.array(mixed, bool), parts=1) == expected
    assert grpo.next_attempt(grpo_config(groups=7), np.array(mixed, bool), parts=1) == 7
    assert grpo.next_attempt(grpo_config(), np.array(mixed, bool), parts=64) == 8
