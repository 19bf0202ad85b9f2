"""Train states and parameters, each made in its shards; what of a state is a checkpoint's item."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax.sharding import Mesh

from wmpo_jax.runtime import sharding
from wmpo_jax.runtime.checkpoints import Checkpoints
from wmpo_jax.runtime.mesh import batch_sharding, on_cpu


class TrainState(struct.PyTreeNode):
    """Everything a training run is: saved whole, so that a resumed run is the same run.

    Attributes:
      step: int32, steps taken; also the position in the data, which is drawn from fold_in(step).
      params: trained pytree.
      opt_state: of the optax transformation.
      average: exponential moving average of params, or None.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    average: Any


def split(state: TrainState) -> tuple[Any, TrainState]:
    """The two items of a checkpoint: what inference reads (the average if there is one), and the
    rest."""
    if state.average is None:
        return state.params, state.replace(params=None)
    return state.average, state.replace(average=None)


def join(inference: Any, rest: TrainState) -> TrainState:
    """The inverse of `split`."""
    if rest.params is None:
        return rest.replace(params=inference)
    return rest.replace(average=inference)


def save(checkpoints: Checkpoints, step: int, state: TrainState) -> None:
    """Writes the checkpoint of `step`; UserError when it holds a number that is not finite."""
    checkpoints.save(step, *split(state))


def restore(checkpoints: Checkpoints, state: TrainState) -> TrainState:
    """The newest checkpoint, placed as `state` is."""
    return join(*checkpoints.restore(*split(state)))


def create(
    mesh: Mesh, build: Callable[[], nnx.Module], chosen: Any = ..., dtype: Any = jnp.float32
) -> tuple[Any, Any]:
    """A network with fresh parameters, each made in its shards: (graphdef, params).

    Args:
      chosen: NNX's filter of the parameters that are wanted.
      dtype: of the parameters.
    """
    graphdef, params = abstract(mesh, build, chosen)
    places = jax.tree.map(lambda leaf: leaf.sharding, params)
    # It runs once: on a CPU optimizing it would take five times as long as not.
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    make = jax.jit(
        lambda: jax.tree.map(lambda leaf: leaf.astype(dtype), nnx.state(build(), chosen)),
        out_shardings=places,
        compiler_options=quick if on_cpu(mesh) else None,
    )
    return graphdef, make()


def abstract(mesh: Mesh, build: Callable[[], nnx.Module], chosen: Any = ...) -> tuple[Any, Any]:
    """As `create`, but shapes and shardings alone: a template to restore into."""
    graphdef, params = nnx.split(nnx.eval_shape(build))
    return graphdef, sharding.abstract(mesh, nnx.filter_state(params, chosen))


def initial_state(mesh: Mesh, params: Any, optimizer: Any, averaged: bool = False) -> TrainState:
    """Step 0 from a copy of `params` (steps donate their state), all of it made in its shards."""
    make = functools.partial(_initial_state, optimizer=optimizer, averaged=averaged)
    return make_sharded(mesh, make, params)


def state_template(mesh: Mesh, params: Any, optimizer: Any, averaged: bool = False) -> TrainState:
    """Shapes and shardings of `initial_state`; `params` may be shapes too."""
    make = functools.partial(_initial_state, optimizer=optimizer, averaged=averaged)
    return sharding.abstract(mesh, jax.eval_shape(make, params))


def make_sharded(mesh: Mesh, make: Callable[..., Any], *inputs: Any) -> Any:
    """`make(*inputs)` with every leaf of the result made where the sharding table wants it."""
    places = sharding.shardings(mesh, jax.eval_shape(make, *inputs))
    return jax.jit(make, out_shardings=places)(*inputs)


def _initial_state(params: Any, optimizer: Any, averaged: bool) -> TrainState:
    average = jax.tree.map(jnp.copy, params) if averaged else None
    return TrainState(jnp.int32(0), jax.tree.map(jnp.copy, params), optimizer.init(params), average)


def spread(mesh: Mesh, batch: Any) -> Any:
    """Inside jit: splits the leading axis of a batch over the data axes of the mesh."""
    return jax.lax.with_sharding_constraint(batch, batch_sharding(mesh))
