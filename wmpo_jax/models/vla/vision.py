"""The two vision towers: one pre-norm ViT class for DINOv2 with registers and for SigLIP.

The policy reads the output of the SECOND-TO-LAST block, without the final norm and without prefix
tokens (reference: verl/utils/vla_utils/openvla_oft/modeling_prismatic.py:115-137 and 186-228 at
09f60b7). The last block, the final norm and SigLIP's attention pooling are unused, so they do not
exist here; `weights.dead_shapes` lists them.
"""

from functools import partial

import einops
import jax
import jax.numpy as jnp
from flax import nnx

from wmpo_jax.models.attention import attention
from wmpo_jax.models.dense import Dense
from wmpo_jax.models.layers import make_layers, run_layers
from wmpo_jax.models.vla.config import ViTConfig
from wmpo_jax.runtime.precision import Products, linear
from wmpo_jax.runtime.sharding import spread_batch

LAYER_NORM_EPS = 1e-6


class PatchEmbed(nnx.Module):
    """A convolution whose stride is its kernel size, written as one matrix product."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        shape = (config.patch, config.patch, 3, config.width)
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(config.width))
        self.dtype = config.dtype
        self.products: Products = config.products

    def __call__(self, image_BHWC: jax.Array) -> jax.Array:
        kernel = self.kernel[...]
        patches_BPX = einops.rearrange(
            image_BHWC.astype(self.dtype),
            "b (h p) (w q) c -> b (h w) (p q c)",
            p=kernel.shape[0],
            q=kernel.shape[1],
        )
        kernel_XD = kernel.reshape(-1, kernel.shape[-1])
        patches_BPD = linear(patches_BPX, kernel_XD, self.products)
        return patches_BPD + self.bias[...].astype(self.dtype)[None, None]


class ViTBlock(nnx.Module):
    """x + attention(norm x), then x + mlp(norm x); both branches may carry a layer scale."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        linear = partial(Dense, dtype=config.dtype, products=config.products, rngs=rngs)
        norm = partial(
            nnx.LayerNorm,
            epsilon=LAYER_NORM_EPS,
            use_fast_variance=False,
            dtype=config.dtype,
            rngs=rngs,
        )
        self.norm1 = norm(config.width)
        self.qkv = linear(config.width, 3 * config.width)
        self.proj = linear(config.width, config.width)
        self.norm2 = norm(config.width)
        self.fc1 = linear(config.width, config.mlp_width)
        self.fc2 = linear(config.mlp_width, config.width)
        gain = jnp.ones(config.width)
        self.scale1 = nnx.Param(gain) if config.layer_scale else None
        self.scale2 = nnx.Param(gain) if config.layer_scale else None
        self.heads = config.heads

    def __call__(self, x_BPD: jax.Array) -> jax.Array:
        x_BPD = x_BPD + _scaled(self._attention(self.norm1(x_BPD)), self.scale1)
        hidden_BPF = nnx.gelu(self.fc1(self.norm2(x_BPD)), approximate=False)
        return x_BPD + _scaled(self.fc2(hidden_BPF), self.scale2)

    def _attention(self, x_BPD: jax.Array) -> jax.Array:
        batch, n_tokens, width = x_BPD.shape
        qkv = self.qkv(x_BPD).reshape(batch, n_tokens, 3, self.heads, width // self.heads)
        out = attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        return self.proj(out.reshape(batch, n_tokens, width))


class ViT(nnx.Module):
    """image_BHWC float [B, size, size, 3], normalized -> features_BPD, second-to-last block."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        small = nnx.initializers.normal(0.02)
        width = config.width
        self.patch_embed = PatchEmbed(config, rngs=rngs)
        self.pos_embed = nnx.Param(small(rngs.params(), (1, config.n_patches, width)))
        self.cls_token = (
            nnx.Param(small(rngs.params(), (1, 1, width))) if config.class_token else None
        )
        self.reg_token = (
            nnx.Param(small(rngs.params(), (1, config.registers, width)))
            if config.registers
            else None
        )
        self.blocks = make_layers(
            lambda rngs: ViTBlock(config, rngs=rngs),
            config.n_computed_blocks,
            config.scan_layers,
            rngs,
        )
        self.config = config

    def __call__(self, image_BHWC: jax.Array) -> jax.Array:
        x_BPD = self.patch_embed(image_BHWC)
        x_BPD = x_BPD + self.pos_embed[...].astype(x_BPD.dtype)
        # The prefix joins after the positions: class and register tokens have none.
        prefix = [token for token in (self.cls_token, self.reg_token) if token is not None]
        x_BPD = jnp.concatenate([*(_repeat(t[...], x_BPD) for t in prefix), x_BPD], axis=1)
        x_BPD = run_layers(self.blocks, spread_batch(x_BPD))
        return x_BPD[:, self.config.n_prefix :]


def _scaled(branch_BPD: jax.Array, scale_D: nnx.Param | None) -> jax.Array:
    if scale_D is None:
        return branch_BPD
    return branch_BPD * scale_D[...].astype(branch_BPD.dtype)[None, None]


def _repeat(token_1nD: jax.Array, like_BPD: jax.Array) -> jax.Array:
    shape = (like_BPD.shape[0], *token_1nD.shape[1:])
    return jnp.broadcast_to(token_1nD.astype(like_BPD.dtype), shape)
