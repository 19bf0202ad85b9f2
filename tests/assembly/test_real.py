"""A simulator on the host is played in waves of one task, and callers cannot tell."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.stages.fake_host import Lifts
from wmpo_jax.algorithm.protocols import PolicyOutput
from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.envs import registry
from wmpo_jax.envs.protocol import HostEnvironment
from wmpo_jax.runtime.mesh import make_mesh
from wmpo_jax.runtime.workdir import Workdir
from wmpo_jax.stages.context import RunContext

STARTS = np.array([10, 11, 12, 14, 16, 13, 18], np.int32)  # five of one task, two of the other
STATISTICS = ActionStatistics.from_actions(np.array([[-2.0] * 7, [2.0] * 7]))


class Steady:
    """A policy that asks for `params` in every dimension, and notes its batch."""

    def __init__(self) -> None:
        self.batches: set[int] = set()

    def acting(self, params: Any, temperature: float, greedy: bool = False) -> Any:
        def act(observation: Any, key: jax.Array) -> PolicyOutput:
            batch = len(observation.instruction_id_B)
            self.batches.add(batch)
            actions = (
                jnp.full((batch, 4, 7), params) + 0.01 * observation.instruction_id_B[:, None, None]
            )
            tokens = jnp.zeros((batch, 4, 7), jnp.int32)
            return PolicyOutput(tokens_BKA=tokens, actions_BKA=actions, log_probs_BKA=actions)

        return act


@pytest.fixture
def context(tmp_path):
    values = {"seed": 0, "tensorboard": False, "task": "toy_d0", "policy": {"temperature": 1.0}}
    config = ConfigDict(values | {"mesh": {"data": -1, "fsdp": 1, "tensor": 1}})
    context = RunContext(config, Workdir(tmp_path / "run", config), make_mesh(config))
    vars(context).update(env=Lifts())
    return context


def test_episodes_come_back_in_the_order_of_their_starts(context):
    policy: Any = Steady()
    played = context.real.player(policy, 1.0, STATISTICS)(0.25, STARTS, jax.random.key(0))
    assert context.env.waves == [[10, 12, 14], [16, 18], [11, 13]]
    assert policy.batches == {3}  # compiled once; the filling is not simulated
    assert {len(actions) for actions in context.env.executed} == {3, 2}
    np.testing.assert_array_equal(played.frames_BTHWC[:, 0, 0, 0, 0], STARTS)
    np.testing.assert_array_equal(played.instruction_id_B, STARTS % 2)
    assert played.frames_BTHWC.shape == (7, 9, 4, 4, 3)
    # 0.25 of [-1.96, 1.96] is 0.49 a step: 8 steps do not reach 4, and 0.26 does (4.08).
    np.testing.assert_array_equal(played.success_B, STARTS % 2 == 1)
    np.testing.assert_array_equal(played.finish_step_B, 8)


def test_frames_that_were_not_requested_are_neither_drawn_nor_kept(context):
    policy: Any = Steady()
    played = context.real.player(policy, 1.0, STATISTICS)(
        0.5, STARTS, jax.random.key(0), videos=False
    )
    assert context.env.videos == {False}
    assert played.frames_BTHWC.shape == (7, 1, 4, 4, 3)
    assert played.success_B.all()


def test_statistics_of_a_checkpoint_come_before_those_of_the_demonstrations(context):
    policy: Any = Steady()
    wide = ActionStatistics.from_actions(np.array([[-20.0] * 7, [20.0] * 7]))
    played = context.real.player(policy, 1.0, wide)(0.25, STARTS, jax.random.key(0))
    np.testing.assert_array_equal(played.finish_step_B, 1)


def test_first_frames_are_those_of_the_starts(context):
    seen = context.real.first_frames()(STARTS)
    np.testing.assert_array_equal(seen.frame_BHWC[:, 0, 0, 0], STARTS)
    np.testing.assert_array_equal(seen.instruction_id_B, STARTS % 2)


def test_evaluation_alone_gets_the_stored_states(context):
    np.testing.assert_array_equal(context.starts("evaluation", 1, 3), [-2, -3, -4])
    assert (context.starts("rollouts", 0, 3) >= 0).all()


def test_results_say_how_episodes_were_made(context):
    assert context.provenance()["protocol"] == {"suite": "toy_d0", "sha256": "0123"}
    assert isinstance(Lifts(), HostEnvironment)
    vars(context)["env"] = registry.make("press")
    assert context.provenance() == {}
