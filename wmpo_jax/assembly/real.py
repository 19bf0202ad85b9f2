"""Policies in the real environment: compiled (MJX), or wave by wave on the host (LIBERO).

Callers ask for a player or for first frames and do not know which of the two they got.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from wmpo_jax.agents.policy import Policy
from wmpo_jax.algorithm.protocols import ChunkOutcome, Observation, PolicyOutput
from wmpo_jax.algorithm.rollout import rollout, rollout_on_host
from wmpo_jax.algorithm.trajectory import Trajectory, select
from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.envs.dynamics import MjxDynamics
from wmpo_jax.envs.protocol import Environment, HostEnvironment
from wmpo_jax.runtime import distributed, sharding
from wmpo_jax.runtime.mesh import on_this_host, spread_padded

# Gives every host what each of them has computed: `distributed.exchange` into some folder.
Exchange = Callable[[dict[str, np.ndarray]], list[dict[str, np.ndarray]]]


class Player(Protocol):
    """Plays `params` from every start, int32 [B]; without `videos` only first frames are sure."""

    def __call__(
        self,
        params: Any,
        starts: jax.Array | np.ndarray,
        key: jax.Array,
        greedy: bool = False,
        videos: bool = True,
    ) -> Trajectory: ...


class RealDynamics:
    """MJX behind the policy's action units: normalized [-1, 1] in, the task's own units out."""

    def __init__(self, env: Environment, statistics: ActionStatistics, mesh: Mesh | None = None):
        self._mjx = MjxDynamics(env, mesh)
        self._statistics = statistics

    def reset(self, start: jax.Array, key: jax.Array) -> tuple[Any, Observation]:
        return self._mjx.reset(start, key)

    def step(
        self, state: Any, actions_BKA: jax.Array, key: jax.Array
    ) -> tuple[Any, Observation, ChunkOutcome]:
        return self._mjx.step(state, jnp.asarray(self._statistics.unnormalize(actions_BKA)), key)


@dataclass(frozen=True)
class RealEnvironment:
    """A task's environment, wherever it is simulated.

    Attributes:
      folder: where several hosts exchange what each of them has simulated.
    """

    env: Environment | HostEnvironment
    mesh: Mesh
    folder: Path

    @property
    def num_chunks(self) -> int:
        """Chunks in an episode."""
        return self.env.horizon // self.env.chunk

    def player(self, policy: Policy, temperature: float, statistics: ActionStatistics) -> Player:
        """How a policy acts here; `statistics` un-normalize its actions."""
        if isinstance(self.env, HostEnvironment):
            exchange = partial(distributed.exchange, self.folder)
            return HostPlayer(self.env, self.num_chunks, policy, temperature, statistics, exchange)
        return _compiled_player(self, self.env, policy, temperature, statistics)

    def first_frames(self) -> Callable[[np.ndarray], Observation]:
        """A function from starts, int32 [B], to the first observations."""
        if isinstance(self.env, HostEnvironment):
            return partial(
                _first_frames_on_host, self.env, partial(distributed.exchange, self.folder)
            )
        dynamics = MjxDynamics(self.env)
        look = jax.jit(lambda seeds: dynamics.reset(seeds, jax.random.key(0))[1])
        return lambda starts: look(jnp.asarray(starts))


def _compiled_player(
    real: RealEnvironment,
    env: Environment,
    policy: Policy,
    temperature: float,
    statistics: ActionStatistics,
) -> Player:
    mesh, dynamics = real.mesh, RealDynamics(env, statistics, real.mesh)

    @partial(jax.jit, static_argnames="greedy")
    def together(params: Any, starts: jax.Array, key: jax.Array, greedy: bool) -> Trajectory:
        acting = policy.acting(params, temperature, greedy)
        with sharding.over(mesh):
            return rollout(acting, dynamics, starts, key, real.num_chunks)

    def play(
        params: Any,
        starts: jax.Array | np.ndarray,
        key: jax.Array,
        greedy: bool = False,
        videos: bool = True,
    ) -> Trajectory:
        del videos  # frames cost little here
        played = together(params, spread_padded(mesh, np.asarray(starts)), key, greedy)
        filled = len(played.success_B) > len(starts)
        return select(played, jnp.arange(len(starts))) if filled else played

    return play


class HostPlayer:
    """`Player` in a `HostEnvironment`: waves of one task each, the policy compiled once.

    Several hosts share the waves out and have a copy of the policy each, so that none waits for the
    slowest simulator before the end.
    """

    def __init__(
        self,
        env: HostEnvironment,
        num_chunks: int,
        policy: Policy,
        temperature: float,
        statistics: ActionStatistics,
        exchange: Exchange,
    ):
        self._env, self._statistics = env, statistics
        self._num_chunks, self._exchange = num_chunks, exchange

        @partial(jax.jit, static_argnames="greedy")
        def act(params: Any, seen: Observation, key: jax.Array, greedy: bool) -> PolicyOutput:
            return policy.acting(params, temperature, greedy)(seen, key)

        self._act = act

    def __call__(
        self,
        params: Any,
        starts: jax.Array | np.ndarray,
        key: jax.Array,
        greedy: bool = False,
        videos: bool = True,
    ) -> Trajectory:
        starts_B = np.asarray(starts)
        world = HostDynamics(self._env, self._statistics, videos)
        policy = partial(self._act, on_this_host(params), greedy=greedy)

        def play(number: int, wave: np.ndarray) -> dict[str, np.ndarray]:
            wave_key = jax.random.fold_in(key, number)
            played = rollout_on_host(
                policy, world, starts_B[wave], wave_key, self._num_chunks, videos
            )
            return vars(jax.device_get(select(played, jnp.arange(len(wave)))))

        return Trajectory(**shared_out(waves(self._env, starts_B), play, self._exchange))


class HostDynamics:
    """`Dynamics` of a wave in the policy's action units, filled up to the compiled batch.

    The filling repeats the last episode and is never simulated.
    """

    def __init__(self, env: HostEnvironment, statistics: ActionStatistics, videos: bool):
        self._env = env
        self._statistics = statistics
        self._videos = videos

    def reset(self, start: np.ndarray, key: jax.Array) -> tuple[int, Observation]:
        del key  # the start decides everything
        return len(start), self._filled(self._env.reset(start))

    def step(
        self, state: int, actions_BKA: jax.Array, key: jax.Array
    ) -> tuple[int, Observation, ChunkOutcome]:
        del key  # the physics is deterministic
        actions = self._statistics.unnormalize(np.asarray(actions_BKA)[:state])
        seen, outcome = self._env.step(np.asarray(actions), self._videos)
        return state, self._filled(seen), self._filled(outcome)

    def _filled(self, tree: Any) -> Any:
        rows = np.arange(self._env.wave)
        return jax.tree.map(lambda leaf: leaf[np.minimum(rows, len(leaf) - 1)], tree)


def shared_out(
    waves: list[np.ndarray],
    play: Callable[[int, np.ndarray], dict[str, np.ndarray]],
    exchange: Exchange,
) -> dict[str, Any]:
    """What `play` makes of every wave, rows in the order of their numbers, all on every host.

    Args:
      waves: numbers of the rows that are played together; each host plays every n-th.
      play: (number of the wave, its rows) -> arrays with the rows as leading axis.
      exchange: `distributed.exchange` into some folder.
    """
    hosts, me = jax.process_count(), jax.process_index()
    mine = [play(number, wave) for number, wave in enumerate(waves) if number % hosts == me]
    joined = {name: np.concatenate([part[name] for part in mine]) for name in (mine or [{}])[0]}
    parts = [part for part in exchange(joined) if part]  # a host may have had no wave
    order = np.argsort(np.concatenate([row for host in range(hosts) for row in waves[host::hosts]]))
    return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}


def waves(env: HostEnvironment, starts_B: np.ndarray) -> list[np.ndarray]:
    """Rows of the episodes that are played together: of one task, at most `env.wave`."""
    instruction_id_B = env.instruction_ids(starts_B)
    groups = []
    for instruction_id in np.unique(instruction_id_B):
        members = np.flatnonzero(instruction_id_B == instruction_id)
        groups += [members[i : i + env.wave] for i in range(0, len(members), env.wave)]
    return groups


def _first_frames_on_host(
    env: HostEnvironment, exchange: Exchange, starts_B: np.ndarray
) -> Observation:
    def look(number: int, wave: np.ndarray) -> dict[str, Any]:
        del number
        return vars(env.reset(starts_B[wave]))

    return Observation(**shared_out(waves(env, starts_B), look, exchange))
