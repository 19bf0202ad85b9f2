"""Building blocks of the image autoencoder: norm, residual block, mid attention, samplers.

Module and attribute names are those of diffusers, so that `weights.py` needs only a short table.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from wmpo_jax.models.dense import Dense
from wmpo_jax.runtime.precision import Products, einsum, linear
from wmpo_jax.runtime.sharding import spread_batch

GROUP_NORM_EPSILON = 1e-6


class GroupNorm(nnx.Module):
    """Group normalization over (H, W, channels of the group), statistics in float32.

    Channels are reduced over space first and joined to groups afterwards, and the result is one
    multiply-add per pixel: on XLA:CPU this is several times faster than reshaping to groups.
    """

    def __init__(self, channels: int, num_groups: int, *, dtype: jnp.dtype):
        self.num_groups = num_groups
        self.dtype = dtype
        self.scale = nnx.Param(jnp.ones((channels,)))
        self.bias = nnx.Param(jnp.zeros((channels,)))

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        x_BHWC = x_BHWC.astype(jnp.float32)
        mean_BC = self._share_in_group(x_BHWC.mean((1, 2)))
        centered_BHWC = x_BHWC - mean_BC[:, None, None]
        var_BC = self._share_in_group(jnp.square(centered_BHWC).mean((1, 2)))
        gain_BC = self.scale[...][None] * jax.lax.rsqrt(var_BC + GROUP_NORM_EPSILON)
        y_BHWC = centered_BHWC * gain_BC[:, None, None] + self.bias[...][None, None, None]
        return y_BHWC.astype(self.dtype)

    def _share_in_group(self, x_BC: jax.Array) -> jax.Array:
        """Replaces each channel's value by the mean over the channels of its group."""
        batch, channels = x_BC.shape
        group_mean = x_BC.reshape(batch, self.num_groups, -1).mean(-1)
        return jnp.repeat(group_mean, channels // self.num_groups, axis=1)


class Conv(nnx.Conv):
    """A convolution whose batch stays where it is, before and after.

    Left alone, XLA (jaxlib 0.10.2) spreads the channels between two convolutions over the tensor
    axis, and then loses a part of the gradient on meshes with three axes, such as 2x2x2.
    """

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        return spread_batch(super().__call__(spread_batch(x_BHWC)))


def conv(
    in_channels: int,
    out_channels: int,
    size: int,
    *,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
    stride: int = 1,
    padding: int | tuple = 0,
) -> Conv:
    """A square convolution, kernel (size, size, in, out) in float32, computed in `dtype`."""
    return Conv(
        in_channels,
        out_channels,
        kernel_size=(size, size),
        strides=stride,
        padding=padding,
        dtype=dtype,
        rngs=rngs,
    )


class ResnetBlock(nnx.Module):
    """norm, SiLU, conv, twice, plus a skip that is a 1x1 convolution when channels change."""

    def __init__(
        self, in_channels: int, out_channels: int, groups: int, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        self.norm1 = GroupNorm(in_channels, groups, dtype=dtype)
        self.conv1 = conv(in_channels, out_channels, 3, padding=1, dtype=dtype, rngs=rngs)
        self.norm2 = GroupNorm(out_channels, groups, dtype=dtype)
        self.conv2 = conv(out_channels, out_channels, 3, padding=1, dtype=dtype, rngs=rngs)
        self.conv_shortcut = (
            conv(in_channels, out_channels, 1, dtype=dtype, rngs=rngs)
            if in_channels != out_channels
            else None
        )

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        h_BHWC = self.conv1(nnx.silu(self.norm1(x_BHWC)))
        h_BHWC = self.conv2(nnx.silu(self.norm2(h_BHWC)))
        skip_BHWC = x_BHWC if self.conv_shortcut is None else self.conv_shortcut(x_BHWC)
        return skip_BHWC + h_BHWC


class SpatialAttention(nnx.Module):
    """Single-head self-attention over all positions of the latent map, with a residual."""

    def __init__(
        self, channels: int, groups: int, *, dtype: jnp.dtype, products: Products, rngs: nnx.Rngs
    ):
        self.products: Products = products
        linear = partial(Dense, channels, channels, dtype=dtype, products=products, rngs=rngs)
        self.group_norm = GroupNorm(channels, groups, dtype=dtype)
        self.to_q, self.to_k, self.to_v, self.to_out = linear(), linear(), linear(), linear()

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        batch, height, width, channels = x_BHWC.shape
        h_BSD = self.group_norm(x_BHWC).reshape(batch, height * width, channels)
        q_BSD, k_BSD, v_BSD = self.to_q(h_BSD), self.to_k(h_BSD), self.to_v(h_BSD)
        scores = einsum("bqd,bkd->bqk", q_BSD, k_BSD, self.products)
        weights = nnx.softmax(scores.astype(jnp.float32) * channels**-0.5, axis=-1)
        h_BSD = self.to_out(
            einsum("bqk,bkd->bqd", weights.astype(v_BSD.dtype), v_BSD, self.products)
        )
        return x_BHWC + h_BSD.reshape(x_BHWC.shape)


class MidBlock(nnx.Module):
    """Residual block, optional attention, residual block, at the lowest resolution."""

    def __init__(
        self,
        channels: int,
        groups: int,
        *,
        attention: bool,
        dtype: jnp.dtype,
        products: Products,
        rngs: nnx.Rngs,
    ):
        self.resnets = nnx.List(
            ResnetBlock(channels, channels, groups, dtype=dtype, rngs=rngs) for _ in range(2)
        )
        self.attentions = nnx.List(
            [SpatialAttention(channels, groups, dtype=dtype, products=products, rngs=rngs)]
            if attention
            else []
        )

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        x_BHWC = self.resnets[0](x_BHWC)
        for attention in self.attentions:
            x_BHWC = attention(x_BHWC)
        return self.resnets[1](x_BHWC)


class Downsample(nnx.Module):
    """Halves rows and columns; the original pads one pixel at the right and bottom only."""

    def __init__(self, channels: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.conv = conv(
            channels, channels, 3, stride=2, padding=((0, 1), (0, 1)), dtype=dtype, rngs=rngs
        )

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        return self.conv(x_BHWC)


class Upsample(nnx.Module):
    """Nearest-neighbor doubling and a 3x3 convolution, computed as one matrix product.

    On the doubled image each 3x3 window touches only 2x2 different low-resolution pixels. So the
    kernel is folded to four 2x2 kernels, one per position within a doubled pixel, and applied
    before the doubling: the same sums with 16 instead of 36 products per low-resolution pixel.
    """

    def __init__(self, channels: int, *, dtype: jnp.dtype, products: Products, rngs: nnx.Rngs):
        self.dtype = dtype
        self.products: Products = products
        self.conv = conv(channels, channels, 3, padding=1, dtype=dtype, rngs=rngs)

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        batch, height, width, channels = x_BHWC.shape
        rows, columns = height + 1, width + 1
        padded = jnp.pad(x_BHWC.astype(self.dtype), ((0, 0), (1, 1), (1, 1), (0, 0)))
        corners_BHWX = jnp.concatenate(
            [padded[:, t : t + rows, u : u + columns] for t in range(2) for u in range(2)], axis=-1
        )
        phases = linear(corners_BHWX, self._folded_kernel(), self.products)
        # Corner (r, c) now holds the pixels (2r-1 .. 2r, 2c-1 .. 2c) of the doubled image.
        phases = phases.reshape(batch, rows, columns, 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
        doubled = phases.reshape(batch, 2 * rows, 2 * columns, channels)
        bias = self.conv.bias
        assert bias is not None  # nnx.Conv would allow none
        return doubled[:, 1:-1, 1:-1] + bias[...].astype(self.dtype)[None, None, None]

    def _folded_kernel(self) -> jax.Array:
        """(3, 3, C, C) -> (2 x 2 low-resolution taps x C, 2 x 2 phases x C)."""
        # fold[t, p] marks the kernel taps that fall on low-resolution tap t at phase p.
        fold = jnp.array([[[1, 1, 0], [1, 0, 0]], [[0, 0, 1], [0, 1, 1]]], jnp.float32)
        kernel = jnp.einsum("tpi,uqj,ijcd->tucpqd", fold, fold, self.conv.kernel[...])
        return kernel.reshape(4 * kernel.shape[2], -1)
