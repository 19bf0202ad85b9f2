"""Both worlds of a finished run, compiled for one episode at a time."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from wmpo_jax.algorithm.imagination import ImaginedDynamics
from wmpo_jax.algorithm.protocols import ChunkOutcome, Dynamics, Observation
from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.envs.protocol import Environment, HostEnvironment
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.stages import improve
from wmpo_jax.stages.agents import (
    PolicyFamily,
    RealDynamics,
    VideoRewardModel,
    VideoWorldModel,
    policy_family,
)
from wmpo_jax.stages.setting import Setting
from wmpo_jax.stages.sft import load_base_policy

# World model, classifier, threshold: the arrays of imagination, as `improve.load_world` gives them.
Parts = tuple[VideoWorldModel, VideoRewardModel, jax.Array]


class Side(struct.PyTreeNode):
    """One of the two worlds between two chunks, with a batch of one.

    Attributes:
      state: what its dynamics remembers.
      observation: what a policy would see now.
      video_BTHWC: uint8, the newest frames that the next window of the reward model begins with.
    """

    state: Any
    observation: Observation
    video_BTHWC: jax.Array


class Turn(struct.PyTreeNode):
    """What one world shows while a chunk of K actions is executed.

    Attributes:
      frames_KHWC: uint8, the frame after each action.
      probability_K: float32, the classifier's probability of success after each action.
      success_K: bool, this world counts as solved at or before each action.
      invalid: bool, the physics broke down and the world stands still.
    """

    frames_KHWC: jax.Array
    probability_K: jax.Array
    success_K: jax.Array
    invalid: jax.Array


@dataclass(frozen=True)
class Dream:
    """What imagination is made of; success is believed from `threshold` and `min_step` actions."""

    world_model: VideoWorldModel
    reward_model: VideoRewardModel
    threshold: jax.Array
    min_step: int


class Worlds:
    """Reality, imagination and the policies of a run.

    Args:
      policies: params by name, such as base and wmpo.
    """

    def __init__(
        self,
        env: Environment,
        statistics: ActionStatistics,
        family: PolicyFamily,
        policies: Mapping[str, Any],
        dream: Dream,
    ) -> None:
        self.env = env
        self.threshold = float(dream.threshold)
        self._statistics, self._policies, self._dream = statistics, dict(policies), dream
        real = RealDynamics(env, statistics)
        self._start = jax.jit(functools.partial(_start, real, dream.min_step))
        self._real = jax.jit(functools.partial(_turn, lambda parts: real))
        self._imagined = jax.jit(
            functools.partial(_turn, lambda parts: ImaginedDynamics(*parts, dream.min_step))
        )
        self._act = jax.jit(lambda params, seen: _greedy(family, params, seen))

    @property
    def policies(self) -> tuple[str, ...]:
        return tuple(self._policies)

    def start(self, seed: int) -> tuple[Side, Side]:
        """Reality and imagination at the start drawn from `seed`: the same frame in both."""
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

    @property
    def _parts(self) -> Parts:
        return self._dream.world_model, self._dream.reward_model, self._dream.threshold


def open_worlds(setting: Setting) -> Worlds:
    """Loads what the stages of a workdir have trained; the improved policy if there is one.

    Raises:
      UserError: the task cannot be driven; or the world model, the classifier or the base policy
        has not been trained yet.
    """
    env = setting.env
    if isinstance(env, HostEnvironment):
        raise UserError(
            f"{env.name} runs in processes of its own and cannot be driven: give the --workdir of "
            "a task that lives in MJX."
        )
    family = policy_family(setting.config, env)
    policies = {"base": load_base_policy(setting, family)}
    if setting.workdir.done("improve"):
        policies["wmpo"] = improve.load_policy(setting, family)
    dream = Dream(*improve.load_world(setting), setting.config.reward.min_step)
    return Worlds(env, setting.statistics, family, policies, dream)


def _start(
    real: RealDynamics, min_step: int, parts: Parts, seeds_B: jax.Array
) -> tuple[Side, Side]:
    key = jax.random.key(0)
    dream = ImaginedDynamics(*parts, min_step)
    real_state, first = real.reset(seeds_B, key)
    dream_state, _ = dream.reset(first, key)
    video = jnp.repeat(first.frame_BHWC[:, None], dream.reward_model.window - 1, axis=1)
    return Side(real_state, first, video), Side(dream_state, first, video)


def _turn(
    dynamics_of: Callable[[Parts], Dynamics],
    parts: Parts,
    side: Side,
    actions_BKA: jax.Array,
    key: jax.Array,
) -> tuple[Side, Turn]:
    """One chunk in one world, judged by the same classifier as in imagination."""
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


def _greedy(family: PolicyFamily, params: Any, seen: Observation) -> jax.Array:
    policy = family.policy(params, temperature=1.0, greedy=True)
    return policy(seen, jax.random.key(0)).actions_BKA
