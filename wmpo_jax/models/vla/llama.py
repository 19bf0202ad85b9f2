"""Llama with FULL bidirectional attention: every token attends to all that are not padding.

In the reference this comes from a patched `transformers` (moojink/transformers-openvla-oft, named
in dependencies/openvla-oft/pyproject.toml:50 at 09f60b7); no mask is causal. Otherwise it is
Llama-2: RMSNorm, half-split rotary positions, SwiGLU, no biases.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from wmpo_jax.models.attention import attention
from wmpo_jax.models.dense import Dense
from wmpo_jax.models.layers import make_layers, run_layers
from wmpo_jax.models.vla.config import LlamaConfig
from wmpo_jax.runtime.sharding import spread_batch

# Picks the tokens (axis 1) whose outputs are wanted.
Read = Callable[[jax.Array], jax.Array]


class RMSNorm(nnx.Module):
    """x / rms(x) * scale; the statistics in float32, as Hugging Face computes them."""

    def __init__(self, config: LlamaConfig):
        self.scale = nnx.Param(jnp.ones(config.width))
        self.eps = config.rms_norm_eps

    def __call__(self, x_BSD: jax.Array) -> jax.Array:
        x32 = x_BSD.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
        normed = (x32 * jax.lax.rsqrt(mean_square + self.eps)).astype(x_BSD.dtype)
        return normed * self.scale[...].astype(x_BSD.dtype)[None, None]


class LlamaBlock(nnx.Module):
    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
        linear = partial(
            Dense, use_bias=False, dtype=config.dtype, products=config.products, rngs=rngs
        )
        width, mlp_width = config.width, config.mlp_width
        self.input_norm = RMSNorm(config)
        self.q_proj = linear(width, width)
        self.k_proj = linear(width, width)
        self.v_proj = linear(width, width)
        self.o_proj = linear(width, width)
        self.post_attention_norm = RMSNorm(config)
        self.gate_proj = linear(width, mlp_width)
        self.up_proj = linear(width, mlp_width)
        self.down_proj = linear(mlp_width, width)
        self.heads = config.heads

    def __call__(
        self,
        x_BSD: jax.Array,
        angles_BSR: jax.Array,
        key_mask_BS: jax.Array | None,
        read: Read = lambda array: array,
    ) -> jax.Array:
        """Outputs only of the tokens that `read` picks; all tokens serve as keys and values."""
        normed_BSD = self.input_norm(x_BSD)
        query = _rotate(self._heads(self.q_proj(read(normed_BSD))), read(angles_BSR))
        key = _rotate(self._heads(self.k_proj(normed_BSD)), angles_BSR)
        value = self._heads(self.v_proj(normed_BSD))
        mask = None if key_mask_BS is None else key_mask_BS[:, None, None, :]
        attended = attention(query, key, value, mask)
        x_BQD = read(x_BSD)
        x_BQD = x_BQD + self.o_proj(attended.reshape(x_BQD.shape))
        normed_BQD = self.post_attention_norm(x_BQD)
        hidden_BQF = nnx.silu(self.gate_proj(normed_BQD)) * self.up_proj(normed_BQD)
        return x_BQD + self.down_proj(hidden_BQF)

    def _heads(self, x_BSD: jax.Array) -> jax.Array:
        return x_BSD.reshape(*x_BSD.shape[:2], self.heads, -1)


class Llama(nnx.Module):
    """Embeddings, blocks, final norm and the rows of the head. Scores are the caller's business.

    `embed_tokens` and `lm_head` are both [vocabulary, width] and not tied.
    """

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs):
        shape = (config.vocab_size, config.width)
        # Embeddings of unit size: they sit beside projected patches, which are about that large.
        self.embed_tokens = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), shape))
        self.blocks = make_layers(
            lambda rngs: LlamaBlock(config, rngs=rngs), config.depth, config.scan_layers, rngs
        )
        self.norm = RMSNorm(config)
        # A small head: an untrained policy is close to uniform.
        self.lm_head = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), shape))
        self.config = config

    def embed(self, tokens_BL: jax.Array) -> jax.Array:
        return jnp.take(self.embed_tokens[...], tokens_BL, axis=0).astype(self.config.dtype)

    def __call__(
        self,
        x_BSD: jax.Array,
        positions_BS: jax.Array,
        key_mask_BS: jax.Array | None = None,
        read: Read = lambda array: array,
    ) -> jax.Array:
        """Hidden states after the final norm.

        Args:
          x_BSD: embedded sequence.
          positions_BS: int rotary positions; a leading axis of 1 serves the whole batch.
          key_mask_BS: bool, False where a token is padding; None when there is none.
          read: picks along axis 1 the tokens that are wanted. The last block computes no other
            query (scanned layers do, being all alike), which changes nothing in the result.
        """
        angles_BSR = rotary_angles(positions_BS, self.config)
        if self.config.scan_layers:
            x_BSD = run_layers(self.blocks, spread_batch(x_BSD), angles_BSR, key_mask_BS)
            return self.norm(read(x_BSD))
        x_BSD = run_layers(self.blocks[:-1], spread_batch(x_BSD), angles_BSR, key_mask_BS)
        return self.norm(spread_batch(self.blocks[-1](x_BSD, angles_BSR, key_mask_BS, read)))


def rotary_angles(positions_BS: jax.Array, config: LlamaConfig) -> jax.Array:
    """position * theta^(-2r/head_dim) for r < head_dim/2, float32 [B, S, head_dim/2]."""
    head_dim = config.width // config.heads
    exponent_R = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    frequency_R = 1.0 / config.rope_theta**exponent_R
    return positions_BS.astype(jnp.float32)[..., None] * frequency_R[None, None]


def _rotate(x_BSHE: jax.Array, angles_BSR: jax.Array) -> jax.Array:
    """Rotary positions in Hugging Face's half-split pairing: (0, R), (1, R+1), ..."""
    cos = jnp.cos(angles_BSR)[:, :, None].astype(x_BSHE.dtype)
    sin = jnp.sin(angles_BSR)[:, :, None].astype(x_BSHE.dtype)
    first, second = jnp.split(x_BSHE, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
