"""Layers of one shape in a row: written out, or stacked and scanned.

Deep models are scanned: one layer is compiled instead of thirty, its activations are recomputed in
the backward pass, and of parameters that are split over chips one layer at a time is gathered.
Shallow ones are written out, which is faster on a CPU. `stack_layers` and `unstack_layers` turn the
parameters of one form into those of the other.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from wmpo_jax.runtime.sharding import spread_batch

Layers = Any  # an nnx.List of modules, or one module whose arrays carry a leading axis of layers


def make_layers(
    build: Callable[[nnx.Rngs], nnx.Module], depth: int, scan: bool, rngs: nnx.Rngs
) -> Layers:
    """`depth` modules; stacked in one when `scan`."""
    if not scan:
        return nnx.List([build(rngs) for _ in range(depth)])
    return nnx.split_rngs(splits=depth)(nnx.vmap(build))(rngs)


def run_layers(layers: Layers, x: jax.Array, *context: Any) -> jax.Array:
    """x = layer(x, *context) for one after the other; x has the batch in front."""
    if isinstance(layers, list | nnx.List):
        for layer in layers:
            x = spread_batch(layer(x, *context))
        return x
    graphdef, stacked = nnx.split(layers)

    def one(x: jax.Array, params: nnx.State) -> tuple[jax.Array, None]:
        return spread_batch(nnx.merge(graphdef, params)(x, *context)), None

    return jax.lax.scan(jax.checkpoint(one), x, stacked)[0]


def stack_layers(params: nnx.State, *lists: str) -> nnx.State:
    """Parameters of a network that writes its layers out -> of the same one that scans them.

    Args:
      params: of the network; leaves are used one list at a time.
      lists: attribute names of the layers ("blocks").
    """
    stacks: dict[Any, list[nnx.Variable]] = {}
    for path, variable in sorted(nnx.to_flat_state(params), key=lambda item: _numbers(item[0])):
        place = _list_place(path, lists)
        joined = path if place is None else (*path[:place], *path[place + 1 :])
        stacks.setdefault((joined, place is None), []).append(variable)
    return nnx.from_flat_state(
        {
            path: parts[0] if single else parts[0].replace(jnp.stack([part[...] for part in parts]))
            for (path, single), parts in stacks.items()
        }
    )


def unstack_layers(params: nnx.State, like: nnx.State, *lists: str) -> nnx.State:
    """The inverse of `stack_layers`; `like` has the paths of the result (shapes are enough)."""
    stacked = dict(nnx.to_flat_state(params))
    flat = {}
    for path, _ in nnx.to_flat_state(like):
        place = _list_place(path, lists)
        if place is None:
            flat[path] = stacked[path]
        else:
            variable = stacked[*path[:place], *path[place + 1 :]]
            flat[path] = variable.replace(variable[...][path[place]])
    return nnx.from_flat_state(flat)


def _list_place(path: tuple[Any, ...], lists: tuple[str, ...]) -> int | None:
    """Where in `path` the number of a layer stands."""
    for place, word in enumerate(path):
        if isinstance(word, int) and path[place - 1] in lists:
            return place
    return None


def _numbers(path: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(word for word in path if isinstance(word, int))
