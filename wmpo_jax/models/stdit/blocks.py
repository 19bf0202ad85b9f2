"""Parts of an STDiT: embeddings, the modulated block and the final layer.

Reference at 09f60b7: dependencies/opensora/opensora/models/stdit/stdit3.py:37-207 and
models/layers/blocks.py.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from wmpo_jax.models.dense import xavier
from wmpo_jax.models.stdit.attention import (
    Attention,
    KeysValues,
    dense,
    rotary_table,
    rotate,
    spatial_attention,
    temporal_attention,
)
from wmpo_jax.models.stdit.config import STDiTConfig

TIMESTEP_WIDTH = 256
NORM_EPSILON = 1e-6


def timestep_features(timestep_B: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """[cos, sin] of t * 10000^(-i/128), (B, 256); t in 0..1000 is first rounded to `dtype`."""
    half = TIMESTEP_WIDTH // 2
    frequencies = jnp.exp(-np.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / half)
    phases = timestep_B.astype(dtype).astype(jnp.float32)[:, None] * frequencies[None]
    return jnp.concatenate([jnp.cos(phases), jnp.sin(phases)], axis=-1).astype(dtype)


def position_embedding(
    config: STDiTConfig, rows: int, columns: int, height_px: int, width_px: int
) -> jax.Array:
    """Fixed sines and cosines of each token's place, (S, D), S = rows * columns in reading order.

    The first half of the features encodes the column, the second the row. Coordinates are stretched
    as if the image were `input_square_px` wide and its token grid square.
    """
    quarter = config.hidden // 4
    inverse = 10000.0 ** (-jnp.arange(quarter, dtype=jnp.float32) / quarter)
    inverse = inverse.astype(config.dtype).astype(jnp.float32)
    scale = (height_px * width_px) ** 0.5 / config.input_square_px
    base = round((rows * columns) ** 0.5)

    def axis(count: int) -> jax.Array:
        phases = (jnp.arange(count) / scale * (base / count))[:, None] * inverse[None]
        return jnp.concatenate([jnp.sin(phases), jnp.cos(phases)], axis=-1)

    shape = (rows, columns, config.hidden // 2)
    column = jnp.broadcast_to(axis(columns)[None, :], shape)
    row = jnp.broadcast_to(axis(rows)[:, None], shape)
    grid = jnp.concatenate([column, row], axis=-1)
    return grid.reshape(rows * columns, config.hidden).astype(config.dtype)


def layer_norm(x: jax.Array) -> jax.Array:
    """LayerNorm without parameters, computed in float32."""
    x32 = x.astype(jnp.float32)
    centered = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centered), axis=-1, keepdims=True)
    return (centered * jax.lax.rsqrt(variance + NORM_EPSILON)).astype(x.dtype)


def modulated_norm(x_BTSD: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    return layer_norm(x_BTSD) * (1 + scale) + shift


class MLP(nnx.Module):
    """Linear, activation, linear; weights Xavier-uniform, biases zero."""

    def __init__(
        self,
        sizes: tuple[int, int, int],
        activation: Callable[[jax.Array], jax.Array],
        config: STDiTConfig,
        *,
        zero_output: bool = False,
        rngs: nnx.Rngs,
    ):
        self.activation = activation
        out_init = nnx.initializers.zeros if zero_output else xavier
        inner, middle, outer = sizes
        self.fc1 = dense(config, inner, middle, rngs=rngs)
        self.fc2 = dense(config, middle, outer, kernel_init=out_init, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(self.activation(self.fc1(x)))


class Block(nnx.Module):
    """The parameters of a block; its two subclasses define which tokens attend to which.

    Both compute x += gate * attention(modulated LN(x)), then x += gate * MLP(modulated LN(x)). The
    modulation (B, T, 6, D), either leading axis possibly 1, holds shift, scale and gate of the
    attention, then of the MLP; each block adds its own table.
    """

    def __init__(self, config: STDiTConfig, *, zero_output: bool, rngs: nnx.Rngs):
        self.config = config
        sizes = (config.hidden, int(config.hidden * config.mlp_ratio), config.hidden)
        self.scale_shift_table = nnx.Param(_table(6, config, rngs))
        self.attention = Attention(config, zero_output=zero_output, rngs=rngs)
        self.mlp = MLP(sizes, nnx.gelu, config, zero_output=zero_output, rngs=rngs)

    def parts(self, modulation_BT6D: jax.Array) -> list[jax.Array]:
        table_6D = self.scale_shift_table[...].astype(modulation_BT6D.dtype)
        return jnp.split(modulation_BT6D + table_6D[None, None], 6, axis=-2)

    def add_mlp(self, x_BTSD: jax.Array, parts: list[jax.Array]) -> jax.Array:
        *_, shift, scale, gate = parts
        return x_BTSD + gate * self.mlp(modulated_norm(x_BTSD, shift, scale))


class SpatialBlock(Block):
    """Attention among the patches of one frame."""

    def __init__(self, config: STDiTConfig, *, rngs: nnx.Rngs):
        super().__init__(config, zero_output=False, rngs=rngs)

    def __call__(self, x_BTSD: jax.Array, modulation_BT6D: jax.Array) -> jax.Array:
        shift, scale, gate, *_ = parts = self.parts(modulation_BT6D)
        q, k, v = self.attention.heads(modulated_norm(x_BTSD, shift, scale))
        x_BTSD = x_BTSD + gate * self.attention.merge(spatial_attention(q, k, v))
        return self.add_mlp(x_BTSD, parts)


class TemporalBlock(Block):
    """Causal attention among the frames of one patch. Starts as the identity (zero projections)."""

    def __init__(self, config: STDiTConfig, *, rngs: nnx.Rngs):
        super().__init__(config, zero_output=True, rngs=rngs)

    def __call__(
        self, x_BTSD: jax.Array, modulation_BT6D: jax.Array, past: KeysValues | None
    ) -> tuple[jax.Array, KeysValues]:
        """`past`: rotated keys, and values, of all earlier frames of the window, None at its start.

        Returns the new tokens, and the rotated keys and the values of their frames.
        """
        shift, scale, gate, *_ = parts = self.parts(modulation_BT6D)
        q, k, v = self.attention.heads(modulated_norm(x_BTSD, shift, scale))
        start = 0 if past is None else past[0].shape[1]
        table = rotary_table(self.config, start, x_BTSD.shape[1])
        q, k = rotate(q, table), rotate(k, table)
        all_k, all_v = (k, v) if past is None else map(_append_frames, past, (k, v))
        x_BTSD = x_BTSD + gate * self.attention.merge(temporal_attention(q, all_k, all_v))
        return self.add_mlp(x_BTSD, parts), (k, v)


def _table(rows: int, config: STDiTConfig, rngs: nnx.Rngs) -> jax.Array:
    return jax.random.normal(rngs.params(), (rows, config.hidden)) / config.hidden**0.5


def _append_frames(past: jax.Array, new: jax.Array) -> jax.Array:
    return jnp.concatenate([past, new], axis=1)


class BlockPair(nnx.Module):
    """One spatial block, then one temporal block."""

    def __init__(self, config: STDiTConfig, *, rngs: nnx.Rngs):
        self.spatial = SpatialBlock(config, rngs=rngs)
        self.temporal = TemporalBlock(config, rngs=rngs)

    def __call__(
        self,
        x_BTSD: jax.Array,
        spatial_BT6D: jax.Array,
        temporal_BT6D: jax.Array,
        past: KeysValues | None,
    ) -> tuple[jax.Array, KeysValues]:
        x_BTSD = self.spatial(x_BTSD, spatial_BT6D)
        return self.temporal(x_BTSD, temporal_BT6D, past)


class FinalLayer(nnx.Module):
    """Modulated LayerNorm and a linear map from a token to its patch of output channels.

    With `config.fine` the map is that of `refine.FineHead`.
    """

    def __init__(self, config: STDiTConfig, *, rngs: nnx.Rngs):
        rows, columns = config.patch
        self.scale_shift_table = nnx.Param(_table(2, config, rngs))
        if not config.fine:
            outputs = rows * columns * config.out_channels
            self.linear = dense(config, config.hidden, outputs, rngs=rngs)

    def modulated_norm(self, x_BTSD: jax.Array, embedding_BTD: jax.Array) -> jax.Array:
        table_2D = self.scale_shift_table[...].astype(embedding_BTD.dtype)
        shift, scale = jnp.split(embedding_BTD[..., None, :] + table_2D[None, None], 2, axis=-2)
        return modulated_norm(x_BTSD, shift, scale)
