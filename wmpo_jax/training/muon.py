"""Muon: momentum whose matrices are orthogonalized before they are applied (Jordan et al., 2024).

It computes what `optax.contrib.muon` computes with `consistent_rms`, but faster on a CPU: the
Newton-Schulz products contract contiguous axes, in the precision of `runtime.precision`, and layers
that are stacked in one array are taken together on accelerators and one by one on a CPU, where XLA
is slow at batches of small matrices.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wmpo_jax.runtime import precision
from wmpo_jax.runtime.precision import Products

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration
ITERATIONS = 5
MOMENTUM = 0.95
RMS = 0.2  # of an update, as large as AdamW's usually is (Liu et al., 2025)
EPSILON = 1e-8


class MomentumState(NamedTuple):
    """`momentum` has the structure of the parameters."""

    count: Any
    momentum: Any


def orthogonal_momentum(products: Products) -> optax.GradientTransformation:
    """Nesterov momentum; every matrix (the last two axes) brought near singular values of one."""

    def init(params: Any) -> MomentumState:
        return MomentumState(jnp.zeros([], jnp.int32), optax.tree.zeros_like(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, MomentumState]:
        momentum = optax.tree.update_moment(updates, state.momentum, MOMENTUM, 1)
        count = optax.safe_increment(state.count)
        ahead = optax.tree.bias_correction(momentum, MOMENTUM, optax.safe_increment(count))
        now = optax.tree.bias_correction(updates, MOMENTUM, count)

        def direction(m: jax.Array, g: jax.Array) -> jax.Array:
            mixed = MOMENTUM * m + (1 - MOMENTUM) * g
            scale = RMS * max(mixed.shape[-2:]) ** 0.5
            return scale * orthogonalize(mixed, products)

        return jax.tree.map(direction, ahead, now), MomentumState(count, momentum)

    return optax.GradientTransformation(init, update)


def orthogonalize(x_XMN: jax.Array, products: Products) -> jax.Array:
    """The matrices of the last two axes, their singular values brought into about [0.7, 1.2]."""
    if x_XMN.shape[-2] > x_XMN.shape[-1]:
        return orthogonalize(x_XMN.swapaxes(-1, -2), products).swapaxes(-1, -2)

    def together(x: jax.Array) -> jax.Array:
        return _newton_schulz(x, products)

    def one_by_one(x: jax.Array) -> jax.Array:
        return jnp.stack([together(matrix) for matrix in x])

    if x_XMN.ndim == 2:
        return together(x_XMN)
    return jax.lax.platform_dependent(x_XMN, cpu=one_by_one, default=together)


def _newton_schulz(x: jax.Array, products: Products) -> jax.Array:
    a, b, c = COEFFICIENTS
    norm = jnp.sqrt(jnp.sum(jnp.square(x), axis=(-2, -1), keepdims=True))
    x = x / (norm + EPSILON)
    for _ in range(ITERATIONS):
        square = precision.einsum("...mn,...kn->...mk", x, x, products)
        step = b * square + c * precision.einsum("...mk,...kl->...ml", square, square, products)
        x = a * x + precision.einsum("...mk,...kn->...mn", step, x, products)
    return x
