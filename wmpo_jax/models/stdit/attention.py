"""Attention over the patches of a frame, and over the frames of a patch.

Activations are (B, T, S, D): samples, latent frames, patches of a frame, features. Queries, keys
and values are (B, T, S, heads, head_dim) in both kinds of blocks.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from wmpo_jax.models.attention import attention, capability, fits_cudnn
from wmpo_jax.models.dense import Dense, xavier, zeros
from wmpo_jax.models.stdit.config import STDiTConfig
from wmpo_jax.runtime import precision

KeysValues = tuple[jax.Array, jax.Array]
RMS_EPSILON = 1e-6


def rotary_table(config: STDiTConfig, start: int, length: int) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines (T, 1, 1, head_dim / 2) of the rotary phases of `length` frames.

    phase[p, j] = p * 10000^(-2j / head_dim), rounded to the compute type as a product and as a
    factor. Frame 0 is the oldest history frame of the window.
    """
    half = config.head_dim // 2
    frequencies = 10000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    positions = jnp.arange(start, start + length, dtype=jnp.float32)
    phases = positions.astype(config.dtype)[:, None] * frequencies.astype(config.dtype)[None]
    phases = phases[:, None, None, :]
    return jnp.cos(phases), jnp.sin(phases)


def rotate(x_BTSHD: jax.Array, table: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates channel j of the first half with channel j of the second half.

    The original rotates neighbors (0, 1), (2, 3), ...; `weights.py` reorders the channels of a
    head once instead, because halves are contiguous and neighbors are not.
    """
    cos, sin = (part[None] for part in table)
    first, second = jnp.split(x_BTSHD, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def rms_norm(x: jax.Array, weight: jax.Array) -> jax.Array:
    x32 = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + RMS_EPSILON)
    return (x32 * scale).astype(x.dtype) * weight.astype(x.dtype)[None, None, None, None]


def dense(
    config: STDiTConfig,
    inputs: int,
    outputs: int,
    *,
    kernel_init: nnx.Initializer = xavier,
    bias_init: nnx.Initializer = zeros,
    rngs: nnx.Rngs,
) -> Dense:
    """A linear layer of an STDiT."""
    return Dense(
        inputs,
        outputs,
        dtype=config.dtype,
        products=config.products,
        kernel_init=kernel_init,
        bias_init=bias_init,
        rngs=rngs,
    )


class Attention(nnx.Module):
    """Multi-head attention with a fused projection and RMS-normalized queries and keys."""

    def __init__(self, config: STDiTConfig, *, zero_output: bool, rngs: nnx.Rngs):
        self.head_dim = config.head_dim
        self.qkv = dense(config, config.hidden, 3 * config.hidden, rngs=rngs)
        self.q_norm = nnx.Param(jnp.ones(config.head_dim))
        self.k_norm = nnx.Param(jnp.ones(config.head_dim))
        self.proj = dense(
            config,
            config.hidden,
            config.hidden,
            kernel_init=nnx.initializers.zeros if zero_output else xavier,
            rngs=rngs,
        )

    def heads(self, x_BTSD: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Normalized queries, normalized keys, values, each (B, T, S, heads, head_dim)."""
        q, k, v = (
            part.reshape(*part.shape[:-1], -1, self.head_dim)
            for part in jnp.split(self.qkv(x_BTSD), 3, axis=-1)
        )
        return rms_norm(q, self.q_norm[...]), rms_norm(k, self.k_norm[...]), v

    def merge(self, heads_BTSHD: jax.Array) -> jax.Array:
        return self.proj(heads_BTSHD.reshape(*heads_BTSHD.shape[:-2], -1))


def _softmax(scores: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    return jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(dtype)


# Products over a few tokens are bound by memory: rounding float32 operands gained nothing.
_einsum = partial(precision.einsum, products="float32")


def spatial_attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Every patch attends to every patch of its own frame."""
    if fits_cudnn(q.dtype, q.shape[-1], (), capability()):
        shape = q.shape
        q, k, v = (x.reshape(-1, *x.shape[2:]) for x in (q, k, v))
        return attention(q, k, v).reshape(shape)
    scores = _einsum("btqhd,btkhd->bthqk", q * q.shape[-1] ** -0.5, k)
    return _einsum("bthqk,btkhd->btqhd", _softmax(scores, v.dtype), v)


def temporal_attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Every patch attends to its past and present; queries are the newest of the key frames."""
    length, total = q.shape[1], k.shape[1]
    past = jnp.arange(total)[None] <= jnp.arange(total - length, total)[:, None]
    scores = _einsum("bqshd,bkshd->bshqk", q * q.shape[-1] ** -0.5, k)
    scores = jnp.where(past[None, None, None], scores.astype(jnp.float32), -jnp.inf)
    return _einsum("bshqk,bkshd->bqshd", _softmax(scores, v.dtype), v)
