"""A policy that is served elsewhere, in the real environment of a config."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from wmpo_jax.agents.remote_policy import RemotePolicy
from wmpo_jax.algorithm.protocols import ChunkOutcome, Observation
from wmpo_jax.algorithm.rollout import rollout_on_host
from wmpo_jax.algorithm.trajectory import Trajectory, concatenate, select
from wmpo_jax.assembly.real import waves
from wmpo_jax.envs.dynamics import MjxDynamics
from wmpo_jax.envs.protocol import Environment, HostEnvironment
from wmpo_jax.runtime.errors import UserError

TOKEN = "WMPO_TOKEN"  # config.json, which people share, is no place for it


def remote_policy(config: ConfigDict, env: Environment | HostEnvironment) -> RemotePolicy:
    """The policy at config.remote.address, with the token of the environment variable WMPO_TOKEN.

    Raises:
      UserError: there is no address, or this run has several hosts.
    """
    if not config.remote.address:
        raise UserError(
            "remote.address is empty: give the policy server's, "
            "--config.remote.address=ws://127.0.0.1:8000."
        )
    if jax.process_count() > 1:
        raise UserError("A served policy is evaluated by one host: start without --cluster.")
    return RemotePolicy(
        config.remote.address,
        os.environ.get(TOKEN, ""),
        env.instructions,
        env.chunk,
        env.action_dim,
    )


class RemotePlayer:
    """Plays a served policy; the environment is compiled once."""

    def __init__(self, env: Environment | HostEnvironment, policy: RemotePolicy) -> None:
        self._env, self._policy = env, policy
        self._dynamics = _OnHost(env) if isinstance(env, HostEnvironment) else _Compiled(env)

    def __call__(self, starts_B: np.ndarray) -> Trajectory:
        """Whole episodes from every start; of their frames only the first are kept."""
        env = self._env
        whole = [np.arange(len(starts_B))]
        groups = waves(env, starts_B) if isinstance(env, HostEnvironment) else whole
        played = concatenate([self._together(starts_B[rows]) for rows in groups])
        return select(played, jnp.argsort(jnp.asarray(np.concatenate(groups))))

    def _together(self, starts_B: np.ndarray) -> Trajectory:
        chunks = self._env.horizon // self._env.chunk
        self._policy.begin(len(starts_B))
        try:
            played = rollout_on_host(
                self._policy, self._dynamics, starts_B, jax.random.key(0), chunks, videos=False
            )
        finally:
            self._policy.close()
        return jax.tree.map(jnp.asarray, played)


class _Compiled:
    """MJX between two questions."""

    def __init__(self, env: Environment) -> None:
        dynamics = MjxDynamics(env)
        self._reset, self._step = jax.jit(dynamics.reset), jax.jit(dynamics.step)

    def reset(self, start: np.ndarray, key: jax.Array) -> tuple[Any, Observation]:
        return self._reset(jnp.asarray(start), key)

    def step(
        self, state: Any, actions_BKA: jax.Array, key: jax.Array
    ) -> tuple[Any, Observation, ChunkOutcome]:
        return self._step(state, actions_BKA, key)


class _OnHost:
    """A wave of a simulator in processes of its own."""

    def __init__(self, env: HostEnvironment) -> None:
        self._env = env

    def reset(self, start: np.ndarray, key: jax.Array) -> tuple[None, Observation]:
        del key  # the start decides everything
        return None, self._env.reset(start)

    def step(
        self, state: None, actions_BKA: jax.Array, key: jax.Array
    ) -> tuple[None, Observation, ChunkOutcome]:
        del state, key
        return None, *self._env.step(np.asarray(actions_BKA), False)
