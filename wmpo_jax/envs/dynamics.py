"""Many worlds at once: reality as a `Dynamics`, and episodes recorded from scripted actors."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from wmpo_jax.algorithm.protocols import ChunkOutcome, Observation
from wmpo_jax.envs.protocol import Environment, EnvState, Episodes
from wmpo_jax.runtime import sharding
from wmpo_jax.runtime.mesh import fetch, spread_whole

# (state, episode key) -> the action meant, float32 [A]; `Environment.play` is one.
Actor = Callable[[EnvState, jax.Array], jax.Array]


class MjxDynamics:
    """`algorithm.protocols.Dynamics` of a real environment; starts are seeds, int32 [B].

    Actions are in the environment's own units, [-1, 1] per dimension. With a `mesh` every device
    simulates its own part of the worlds, whose number it has to divide.
    """

    def __init__(self, env: Environment, mesh: Mesh | None = None) -> None:
        self._env = env
        self._reset = sharding.apart(mesh, self._reset_rows)
        self._step = sharding.apart(mesh, self._step_rows)

    def reset(self, start: jax.Array, key: jax.Array) -> tuple[EnvState, Observation]:
        del key  # the seed decides everything
        return self._reset(start)

    def _reset_rows(self, start: jax.Array) -> tuple[EnvState, Observation]:
        state = jax.vmap(self._env.reset)(start)
        return state, self._observe(state, jax.vmap(self._env.render)(state))

    def step(
        self, state: EnvState, actions_BKA: jax.Array, key: jax.Array
    ) -> tuple[EnvState, Observation, ChunkOutcome]:
        del key  # the physics is deterministic
        return self._step(state, actions_BKA)

    def _step_rows(
        self, state: EnvState, actions_BKA: jax.Array
    ) -> tuple[EnvState, Observation, ChunkOutcome]:
        def one(state: EnvState, action_BA: jax.Array) -> tuple[EnvState, tuple]:
            state = jax.vmap(self._env.step)(state, action_BA)
            return state, (jax.vmap(self._env.render)(state), state.success)

        state, (frames, success) = jax.lax.scan(one, state, actions_BKA.swapaxes(0, 1))
        outcome = ChunkOutcome(
            frames_BKHWC=frames.swapaxes(0, 1),
            success_BK=success.swapaxes(0, 1),
            invalid_B=state.invalid,
        )
        return state, self._observe(state, frames[-1]), outcome

    def _observe(self, state: EnvState, frame_BHWC: jax.Array) -> Observation:
        return Observation(frame_BHWC=frame_BHWC, instruction_id_B=state.instruction_id)


def expert_actor(env: Environment, bias: float) -> Actor:
    """The scripted demonstrator whose aim is off by about `bias` meters."""
    return lambda state, key: env.expert(state, key, bias)


def record(
    env: Environment, actor: Actor, seeds_B: jax.Array, key: jax.Array, noise: float
) -> Episodes:
    """`env.horizon` steps of `actor` from each seed, in one scan.

    Args:
      seeds_B: int32. An episode is a function of its seed and `key`, whatever its batch.
      noise: standard deviation of the noise added to an action before it is executed; labels
        stay clean. In action units.
    """

    def one(state: EnvState, episode_key: jax.Array) -> tuple[EnvState, tuple]:
        actor_key, noise_key = jax.random.split(episode_key)
        label = actor(state, actor_key)
        tremor = jax.random.normal(jax.random.fold_in(noise_key, state.step), label.shape)
        action = jnp.clip(label + noise * tremor, -1.0, 1.0)
        state = env.step(state, action)
        return state, (env.render(state), action, label, state.success)

    def advance(state: EnvState, _: None) -> tuple[EnvState, tuple]:
        return jax.vmap(one)(state, keys_B)

    keys_B = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, seeds_B)
    start = jax.vmap(env.reset)(seeds_B)
    first_BHWC = jax.vmap(env.render)(start)
    state, (frames, actions, labels, success) = jax.lax.scan(
        advance, start, None, length=env.horizon
    )
    frames = jnp.concatenate([first_BHWC[None], frames])
    return Episodes(
        frames_BTHWC=frames.swapaxes(0, 1),
        actions_BTA=actions.swapaxes(0, 1),
        labels_BTA=labels.swapaxes(0, 1),
        instruction_id_B=state.instruction_id,
        success_B=state.success,
        # Success is latched, so the unsolved steps are those before it.
        finish_step_B=jnp.minimum(env.horizon, 1 + jnp.sum(~success, axis=0, dtype=jnp.int32)),
        invalid_B=state.invalid,
    )


def recorder(
    env: Environment, actor: Actor, noise: float = 0.0, mesh: Mesh | None = None
) -> Callable[[jax.Array, jax.Array], Episodes]:
    """`record` compiled for one actor: (seeds_B, key) -> Episodes, rows apart on a `mesh`."""

    @jax.jit
    def run(seeds_B: jax.Array, key: jax.Array) -> Episodes:
        part = functools.partial(record, env, actor, key=key, noise=noise)
        return sharding.apart(mesh, lambda seeds_B: part(seeds_B=seeds_B))(seeds_B)

    return run


def collect(
    env: Environment,
    actor: Actor,
    seeds: np.ndarray,
    key: jax.Array,
    *,
    noise: float = 0.0,
    batch: int = 64,
    mesh: Mesh,
    on_batch: Callable[[int], None] = lambda episodes: None,
) -> Episodes:
    """Episodes of any number of seeds, in compiled batches, as numpy arrays on every host.

    `on_batch` receives the number of episodes in each finished batch.

    The last batch is filled up with repeated seeds, which are dropped again, so that only one
    shape is compiled; a batch is enlarged to a multiple of the devices it is spread over.
    """
    run = recorder(env, actor, noise, mesh)
    parts_of_batch = sharding.batch_parts(mesh)
    batch = -(-batch // parts_of_batch) * parts_of_batch
    padded = np.resize(seeds, -(-len(seeds) // batch) * batch).astype(np.int32)
    parts = []
    for chunk in padded.reshape(-1, batch):
        parts.append(fetch(run(spread_whole(mesh, chunk), key)))
        on_batch(batch)
    return jax.tree.map(lambda *xs: np.concatenate(xs)[: len(seeds)], *parts)
