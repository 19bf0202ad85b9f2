"""One jitted training step of any loss."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from wmpo_jax.agents.policy import joined
from wmpo_jax.runtime import environment, sharding
from wmpo_jax.runtime.mesh import on_cpu
from wmpo_jax.training.state import TrainState

# (state, data, frozen or nothing) -> (state, metrics)
StepFunction = Callable[..., tuple[TrainState, Mapping[str, jax.Array]]]


def make_step(
    mesh: Mesh,
    loss_fn: Callable[..., tuple[jax.Array, Mapping[str, jax.Array]]],
    optimizer: Any,
    key: jax.Array,
    ema_decay: float = 0.0,
    accumulate: int = 1,
) -> StepFunction:
    """A jitted step of `loss_fn(params, data, key, step) -> (loss, metrics)`.

    What is `frozen` (None, or the policy beside its adapters) reaches the loss as part of `params`.
    The key of a step is `fold_in(key, step)`: batches and noise depend on nothing else. With
    `accumulate` = M the gradient is the mean over M batches, drawn one after the other.
    """

    def step(
        state: TrainState, data: Any, frozen: Any = None
    ) -> tuple[TrainState, Mapping[str, jax.Array]]:
        def loss(params: Any, key: jax.Array) -> tuple[jax.Array, Mapping[str, jax.Array]]:
            return loss_fn(joined(params, frozen), data, key, state.step)

        step_key = jax.random.fold_in(key, state.step)
        with sharding.over(mesh):
            metrics, grads = _mean_gradient(loss, accumulate, state.params, step_key)
        grads = sharding.pin(mesh, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = state.average
        if average is not None:
            decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
            average = optax.incremental_update(params, average, 1.0 - decay)
        new = TrainState(state.step + 1, params, opt_state, average)
        return sharding.pin(mesh, new), metrics

    return jax.jit(step, donate_argnums=0, compiler_options=_step_options(mesh))


def _step_options(mesh: Mesh) -> dict[str, bool] | None:
    """XLA:CPU's default for fused loops, which runtime.environment turns off for MJX's sake."""
    if not on_cpu(mesh) or not environment.has_fusion_emitters_flag():
        return None
    return {"xla_cpu_use_fusion_emitters": True}


def _mean_gradient(
    loss_fn: Callable[..., tuple[jax.Array, Mapping[str, jax.Array]]],
    accumulate: int,
    params: Any,
    key: jax.Array,
) -> tuple[Mapping[str, jax.Array], Any]:
    """(metrics with the loss among them, gradients), means over `accumulate` batches."""

    def one(key: jax.Array) -> tuple[Mapping[str, jax.Array], Any]:
        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, key)
        return {**metrics, "loss": loss}, grads

    if accumulate == 1:
        return one(key)

    def add(total: Any, key: jax.Array) -> tuple[Any, None]:
        return jax.tree.map(lambda t, x: t + x / accumulate, total, one(key)), None

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(one, key))
    return jax.lax.scan(add, zeros, jax.random.split(key, accumulate))[0]
