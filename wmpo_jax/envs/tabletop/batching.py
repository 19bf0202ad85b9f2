"""Keeps large batches of MJX worlds from hanging on a CPU.

jaxlib 0.10 cuts a batch of small Cholesky factorizations into tasks for the very thread pool that
runs it, and waits for them there. Two that run at once, as MJX's do, wait for each other for ever
on a machine of two cores. A batch too small to be worth cutting is safe.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# jaxlib/cpu/lapack_kernels.cc: less work than this, in FLOPs, stays in one task.
_MIN_WORK_PER_TASK = 200_000


def safe_batch(nv: int) -> int:
    """The most worlds with `nv` degrees of freedom whose Cholesky factors stay in one task."""
    cost = max(nv**3 // 3, 1)
    return max((_MIN_WORK_PER_TASK - 1) // cost, 1)


def in_safe_batches(function: Callable[..., Any], limit: int) -> Callable[..., Any]:
    """`function` of one world, which on a CPU `jax.vmap` runs over at most `limit` at a time."""
    guarded = jax.custom_batching.custom_vmap(function)

    @guarded.def_vmap
    def rule(axis_size: int, in_batched: Any, *args: Any) -> tuple[Any, Any]:
        args = jax.tree.map(
            lambda x, batched: x if batched else jnp.broadcast_to(x, (axis_size, *jnp.shape(x))),
            args,
            tuple(in_batched),
        )
        groups = 1 if jax.default_backend() != "cpu" else _groups(axis_size, limit)
        if groups == 1:
            out = jax.vmap(function)(*args)
        else:
            split = jax.tree.map(
                lambda x: x.reshape(groups, axis_size // groups, *x.shape[1:]), args
            )
            out = jax.lax.map(lambda group: jax.vmap(function)(*group), split)
            out = jax.tree.map(lambda x: x.reshape(axis_size, *x.shape[2:]), out)
        return out, jax.tree.map(lambda _: True, out)

    return guarded


def _groups(count: int, limit: int) -> int:
    """The fewest equal groups of at most `limit` that `count` worlds divide into."""
    return next(n for n in range(-(-count // limit), count + 1) if count % n == 0)
