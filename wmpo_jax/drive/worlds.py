"""The real and the imagined environment of a finished run, compiled for one episode at a time."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from wmpo_jax.agents.policy import Policy
from wmpo_jax.algorithm.imagination import ImaginedDynamics
from wmpo_jax.algorithm.protocols import ChunkOutcome, Dynamics, Observation
from wmpo_jax.assembly.real import RealDynamics
from wmpo_jax.assembly.trained import ImaginedParts, TrainedRun, round_name, rounds_of
from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.envs.protocol import Environment, HostEnvironment
from wmpo_jax.runtime.errors import UserError


class Side(struct.PyTreeNode):
    """One of the two environments between two chunks, with a batch of one.

    Attributes:
      state: what its dynamics remembers.
      observation: what a policy would see now.
      video_BTHWC: uint8, the newest frames that the next window of the reward model begins with.
    """

    state: Any
    observation: Observation
    video_BTHWC: jax.Array


class Turn(struct.PyTreeNode):
    """What one environment returns while a chunk of K actions is executed.

    Attributes:
      frames_KHWC: uint8, the frame after each action.
      probability_K: float32, the reward model's probability of success after each action.
      success_K: bool, the task counts as solved at or before each action.
      invalid: bool, the physics became invalid and the state no longer changes.
    """

    frames_KHWC: jax.Array
    probability_K: jax.Array
    success_K: jax.Array
    invalid: jax.Array


class Worlds:
    """Both environments and the policies of a run.

    Args:
      policies: params by name, such as base and wmpo.
    """

    def __init__(
        self,
        env: Environment,
        statistics: ActionStatistics,
        policy: Policy,
        policies: Mapping[str, Any],
        parts: ImaginedParts,
        min_step: int,
    ) -> None:
        self.env = env
        self.threshold = float(parts[-1])
        self._statistics, self._policies, self._parts = statistics, dict(policies), parts
        real = RealDynamics(env, statistics)
        self._start = jax.jit(functools.partial(_start, real, min_step))
        self._real = jax.jit(functools.partial(_turn, lambda parts: real))
        self._imagined = jax.jit(
            functools.partial(_turn, lambda parts: ImaginedDynamics(*parts, min_step))
        )
        self._act = jax.jit(lambda params, seen: _greedy(policy, params, seen))

    @property
    def policies(self) -> tuple[str, ...]:
        return tuple(self._policies)

    def start(self, seed: int) -> tuple[Side, Side]:
        """Both environments at the start drawn from `seed`: the same frame in both."""
        return self._start(self._parts, jnp.array([seed], jnp.int32))

    def act(self, policy: str, side: Side) -> jax.Array:
        """The greedy chunk of a policy that looks at `side`, float32 [1, K, A], normalized."""
        return self._act(self._policies[policy], side.observation)

    def normalize(self, action_A: jax.Array) -> jax.Array:
        """A chunk [1, K, A] that repeats one action in the task's own units, [-1, 1]."""
        chunk = jnp.broadcast_to(action_A, (1, self.env.chunk, self.env.action_dim))
        return jnp.asarray(self._statistics.normalize(chunk, clip=False), jnp.float32)

    def step_real(self, side: Side, actions_BKA: jax.Array) -> tuple[Side, Turn]:
        return self._real(self._parts, side, actions_BKA, jax.random.key(0))

    def step_imagined(
        self, side: Side, actions_BKA: jax.Array, key: jax.Array
    ) -> tuple[Side, Turn]:
        return self._imagined(self._parts, side, actions_BKA, key)


def open_worlds(run: TrainedRun) -> Worlds:
    """Loads what the stages of a workdir have trained; the improved policy if there is one.

    Raises:
      UserError: the task cannot be driven; or the world model, the reward model or the base policy
        has not been trained yet.
    """
    env = run.task
    if isinstance(env, HostEnvironment):
        raise UserError(
            f"{env.name} runs in processes of its own and cannot be driven: give the --workdir of "
            "a task that is simulated by MJX."
        )
    policies = {"base": run.policy_params("sft")}
    last = rounds_of(run.config)
    if run.workdir.done(round_name("improve", last)):
        run = dataclasses.replace(run, round=last)
    if run.workdir.done("improve"):
        policies["wmpo"] = run.policy_params("improve")
    min_step = run.config.reward.min_step
    return Worlds(env, run.statistics, run.policy, policies, run.imagined_parts(), min_step)


def _start(
    real: RealDynamics, min_step: int, parts: ImaginedParts, seeds_B: jax.Array
) -> tuple[Side, Side]:
    key = jax.random.key(0)
    imagined = ImaginedDynamics(*parts, min_step)
    real_state, first = real.reset(seeds_B, key)
    imagined_state, _ = imagined.reset(first, key)
    video = jnp.repeat(first.frame_BHWC[:, None], imagined.reward_model.window - 1, axis=1)
    return Side(real_state, first, video), Side(imagined_state, first, video)


def _turn(
    dynamics_of: Callable[[ImaginedParts], Dynamics],
    parts: ImaginedParts,
    side: Side,
    actions_BKA: jax.Array,
    key: jax.Array,
) -> tuple[Side, Turn]:
    """One chunk in one environment, scored by the same reward model as in imagination."""
    _, reward_model, _ = parts
    state, observation, outcome = dynamics_of(parts).step(side.state, actions_BKA, key)
    video_BTHWC = jnp.concatenate([side.video_BTHWC, outcome.frames_BKHWC], axis=1)
    probability_BK = reward_model.score(video_BTHWC, observation.instruction_id_B)
    kept = video_BTHWC[:, actions_BKA.shape[1] :]
    return Side(state, observation, kept), _only(outcome, probability_BK)


def _only(outcome: ChunkOutcome, probability_BK: jax.Array) -> Turn:
    """The one episode of the batch."""
    return Turn(
        frames_KHWC=outcome.frames_BKHWC[0],
        probability_K=probability_BK[0],
        success_K=outcome.success_BK[0],
        invalid=outcome.invalid_B[0],
    )


def _greedy(policy: Policy, params: Any, seen: Observation) -> jax.Array:
    acting = policy.acting(params, temperature=1.0, greedy=True)
    return acting(seen, jax.random.key(0)).actions_BKA
