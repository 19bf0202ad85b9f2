"""One jitted training step of any loss."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from wmpo_jax.agents.policy import joined
from wmpo_jax.runtime import environment, sharding
from wmpo_jax.runtime.mesh import on_cpu
from wmpo_jax.training.state import TrainState

# (state, data, frozen or nothing) -> (state, metrics)
StepFunction = Callable[..., tuple[TrainState, Mapping[str, jax.Array]]]


class Batch(struct.PyTreeNode):
    """Data of one step that a loader made; other data are arrays that a step draws from.

    Attributes:
      rows: arrays by name, leading axis batch_size x accumulate.
      constants: what every step is given, such as a frozen network.
    """

    rows: dict[str, jax.Array]
    constants: dict[str, Any] = struct.field(default_factory=dict)


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
    `accumulate` = M the gradient is the mean over M micro-batches: drawn one after the other, or
    dealt from the rows of a `Batch`.
    """

    def step(
        state: TrainState, data: Any, frozen: Any = None
    ) -> tuple[TrainState, Mapping[str, jax.Array]]:
        def loss(params: Any, data: Any, key: jax.Array) -> tuple[jax.Array, Mapping]:
            return loss_fn(joined(params, frozen), data, key, state.step)

        step_key = jax.random.fold_in(key, state.step)
        with sharding.over(mesh):
            metrics, grads = _mean_gradient(loss, accumulate, state.params, data, step_key)
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
    data: Any,
    key: jax.Array,
) -> tuple[Mapping[str, jax.Array], Any]:
    """(metrics with the loss among them, gradients), means over `accumulate` micro-batches."""

    def one(data: Any, key: jax.Array) -> tuple[Mapping[str, jax.Array], Any]:
        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, data, key)
        return {**metrics, "loss": loss}, grads

    if accumulate == 1:
        return one(data, key)
    dealt = _deal(data.rows, accumulate) if isinstance(data, Batch) else None

    def add(total: Any, now: tuple[Any, jax.Array]) -> tuple[Any, None]:
        rows, key = now
        part = data if rows is None else data.replace(rows=rows)
        return jax.tree.map(lambda t, x: t + x / accumulate, total, one(part, key)), None

    keys = jax.random.split(key, accumulate)
    first = data if dealt is None else data.replace(rows=jax.tree.map(lambda x: x[0], dealt))
    shapes = jax.eval_shape(one, first, key)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, (dealt, keys))[0]


def _deal(rows: Any, parts: int) -> Any:
    """[B, ...] -> [parts, B / parts, ...]; every device keeps its own rows."""

    def deal(leaf: jax.Array) -> jax.Array:
        return leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(deal, rows)
