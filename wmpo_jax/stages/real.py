"""Policies in reality, wherever it lives: compiled (MJX), or wave by wave on the host (LIBERO).

Stages ask for a player or for first frames and do not know which of the two they got.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from wmpo_jax.algorithm.protocols import ChunkOutcome, Observation, PolicyOutput
from wmpo_jax.algorithm.rollout import rollout, rollout_on_host
from wmpo_jax.algorithm.trajectory import Trajectory, concatenate, select
from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.envs.dynamics import MjxDynamics
from wmpo_jax.envs.protocol import HostEnvironment
from wmpo_jax.stages.agents import PolicyFamily, RealDynamics
from wmpo_jax.stages.setting import Setting


class Player(Protocol):
    """Plays `params` from every start, int32 [B]; without `films` only first frames are sure."""

    def __call__(
        self,
        params: Any,
        starts: jax.Array | np.ndarray,
        key: jax.Array,
        greedy: bool = False,
        films: bool = True,
    ) -> Trajectory: ...


def make_player(
    setting: Setting, family: PolicyFamily, statistics: ActionStatistics | None = None
) -> Player:
    """How the policies of a family act in the true environment.

    Args:
      statistics: un-normalise their actions; None means those of the demonstrations.
    """
    statistics = statistics or setting.statistics
    if isinstance(setting.env, HostEnvironment):
        return HostPlayer(setting, setting.env, family, statistics)
    dynamics = RealDynamics(setting.env, statistics)

    @partial(jax.jit, static_argnames=("greedy", "films"))
    def play(
        params: Any, starts: jax.Array, key: jax.Array, greedy: bool = False, films: bool = True
    ) -> Trajectory:
        del films  # frames cost little here
        policy = family.policy(params, setting.config.policy.temperature, greedy)
        return rollout(policy, dynamics, starts, key, setting.num_chunks)

    return play


class HostPlayer:
    """`Player` in a `HostEnvironment`: waves of one task each, the policy compiled once."""

    def __init__(
        self,
        setting: Setting,
        env: HostEnvironment,
        family: PolicyFamily,
        statistics: ActionStatistics,
    ):
        self._env = env
        self._statistics = statistics
        self._num_chunks = setting.num_chunks
        temperature = setting.config.policy.temperature

        @partial(jax.jit, static_argnames="greedy")
        def act(params: Any, seen: Observation, key: jax.Array, greedy: bool) -> PolicyOutput:
            return family.policy(params, temperature, greedy)(seen, key)

        self._act = act

    def __call__(
        self,
        params: Any,
        starts: jax.Array | np.ndarray,
        key: jax.Array,
        greedy: bool = False,
        films: bool = True,
    ) -> Trajectory:
        starts_B = np.asarray(starts)
        world = HostDynamics(self._env, self._statistics, films)
        policy = partial(self._act, params, greedy=greedy)
        rows, parts = waves(self._env, starts_B), []
        for number, wave in enumerate(rows):
            wave_key = jax.random.fold_in(key, number)
            played = rollout_on_host(
                policy, world, starts_B[wave], wave_key, self._num_chunks, films
            )
            parts.append(select(played, jnp.arange(len(wave))))
        return select(concatenate(parts), jnp.argsort(jnp.asarray(np.concatenate(rows))))


class HostDynamics:
    """`Dynamics` of a wave in the policy's action units, filled up to the compiled batch.

    The filling repeats the last episode and is never simulated.
    """

    def __init__(self, env: HostEnvironment, statistics: ActionStatistics, films: bool):
        self._env = env
        self._statistics = statistics
        self._films = films

    def reset(self, start: np.ndarray, key: jax.Array) -> tuple[int, Observation]:
        del key  # the start decides everything
        return len(start), self._filled(self._env.reset(start))

    def step(
        self, state: int, actions_BKA: jax.Array, key: jax.Array
    ) -> tuple[int, Observation, ChunkOutcome]:
        del key  # the physics is deterministic
        actions = self._statistics.unnormalise(np.asarray(actions_BKA)[:state])
        seen, outcome = self._env.step(np.asarray(actions), self._films)
        return state, self._filled(seen), self._filled(outcome)

    def _filled(self, tree: Any) -> Any:
        rows = np.arange(self._env.wave)
        return jax.tree.map(lambda leaf: leaf[np.minimum(rows, len(leaf) - 1)], tree)


def waves(env: HostEnvironment, starts_B: np.ndarray) -> list[np.ndarray]:
    """Rows of the episodes that are played together: of one task, at most `env.wave`."""
    goal_B = env.goals(starts_B)
    groups = []
    for goal in np.unique(goal_B):
        members = np.flatnonzero(goal_B == goal)
        groups += [members[i : i + env.wave] for i in range(0, len(members), env.wave)]
    return groups


def first_frames(setting: Setting) -> Callable[[np.ndarray], Observation]:
    """A function from starts, int32 [B], to what is seen there."""
    env = setting.env
    if isinstance(env, HostEnvironment):
        return partial(_first_frames_on_host, env)
    dynamics = MjxDynamics(env)
    look = jax.jit(lambda seeds: dynamics.reset(seeds, jax.random.key(0))[1])
    return lambda starts: look(jnp.asarray(starts))


def _first_frames_on_host(env: HostEnvironment, starts_B: np.ndarray) -> Observation:
    rows = waves(env, starts_B)
    seen = [env.reset(starts_B[wave]) for wave in rows]
    order = np.argsort(np.concatenate(rows))
    return jax.tree.map(lambda *leaves: jnp.asarray(np.concatenate(leaves)[order]), *seen)
