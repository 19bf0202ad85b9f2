"""Image autoencoder with a Gaussian posterior (the VAE of Stable Diffusion XL), channels last.

WMPO encodes every video frame on its own with it (WMPO section 3.1). One class for all sizes:
`AutoencoderKLConfig.sdxl()` holds the released weights, `.tiny()` is trained in a minute on a CPU.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from wmpo_jax.models.autoencoder_kl import layers
from wmpo_jax.runtime.precision import Products
from wmpo_jax.runtime.sharding import spread_batch

IMAGE_CHANNELS = 3
LOGVAR_RANGE = (-30.0, 20.0)
# A fresh posterior starts narrow, so that unit noise does not hide the latents from the decoder.
# A small gain: see the README.
INITIAL_LOGVAR = -6.0
HALF_LEVEL = 1.0 / 255.0  # of a uint8 gray level, in images of [-1, 1]


@dataclasses.dataclass(frozen=True)
class AutoencoderKLConfig:
    """Sizes of an autoencoder.

    Attributes:
      block_out_channels: channels per resolution, finest first; each next one halves H and W.
        Empty: no network at all, latents are the scaled pixels of squares of `patch_size`.
      layers_per_block: residual blocks per resolution of the encoder; the decoder has one more.
      latent_channels: C of the latent map.
      norm_num_groups: groups of each GroupNorm; must divide every entry of block_out_channels.
      scaling_factor: latents are multiplied by it, which gives about unit scale.
      mid_attention: self-attention between the two residual blocks of the mid blocks.
      patch_size: squares of this side become channels before the first convolution and pixels
        after the last; 1 in the released model. With 2 a tiny model has no layers at full
        resolution, where a CPU would spend most of its time.
      dtype: compute dtype; parameters are float32.
      products: precision of matrix products (`runtime.precision`); convolutions are not products.
    """

    block_out_channels: tuple[int, ...]
    layers_per_block: int
    latent_channels: int
    norm_num_groups: int
    scaling_factor: float
    mid_attention: bool = True
    patch_size: int = 1
    dtype: jnp.dtype = jnp.float32  # pyright: ignore[reportAssignmentType]
    products: Products = "float32"

    @property
    def downsampling(self) -> int:
        """Image pixels per latent pixel, along one side."""
        return self.patch_size * 2 ** max(len(self.block_out_channels) - 1, 0)

    @property
    def patch_channels(self) -> int:
        """Channels of the first convolution's input and of the last one's output."""
        return IMAGE_CHANNELS * self.patch_size**2

    @classmethod
    def sdxl(cls, dtype: jnp.dtype = jnp.bfloat16) -> "AutoencoderKLConfig":  # pyright: ignore
        """The released SDXL autoencoder, 83.7 M parameters; the reference runs it in bfloat16."""
        return cls((128, 256, 512, 512), 2, 4, 32, 0.13025, dtype=dtype)

    @classmethod
    def small(cls) -> "AutoencoderKLConfig":
        """`sdxl` with a quarter of its channels, for measurements."""
        return cls((32, 64, 128, 128), 2, 4, 32, 0.13025)

    @classmethod
    def tiny(cls) -> "AutoencoderKLConfig":
        """32x32 pixels -> 8x8x4 latents; made for a CPU, see the README for timings."""
        return cls((32, 32), 1, 4, 8, 1.0, mid_attention=False, patch_size=2)

    @classmethod
    def pixels(cls) -> "AutoencoderKLConfig":
        """32x32 pixels -> 16x16x12 latents, nothing lost; needs no training."""
        return cls((), 0, 12, 1, 1.0, patch_size=2)


class Encoder(nnx.Module):
    """Image -> features of the posterior, before the quantization convolution."""

    def __init__(self, config: AutoencoderKLConfig, *, rngs: nnx.Rngs):
        channels, groups, dtype = config.block_out_channels, config.norm_num_groups, config.dtype
        self.conv_in = layers.conv(
            config.patch_channels, channels[0], 3, padding=1, dtype=dtype, rngs=rngs
        )
        self.down_blocks = nnx.List(
            EncoderBlock(before, after, config, downsample=level + 1 < len(channels), rngs=rngs)
            for level, (before, after) in enumerate(
                zip(channels[:1] + channels[:-1], channels, strict=True)
            )
        )
        self.mid_block = layers.MidBlock(
            channels[-1],
            groups,
            attention=config.mid_attention,
            dtype=dtype,
            products=config.products,
            rngs=rngs,
        )
        self.conv_norm_out = layers.GroupNorm(channels[-1], groups, dtype=dtype)
        self.conv_out = layers.conv(
            channels[-1], 2 * config.latent_channels, 3, padding=1, dtype=dtype, rngs=rngs
        )

    def __call__(self, images_BHWC: jax.Array) -> jax.Array:
        x_BHWC = spread_batch(self.conv_in(images_BHWC))
        for block in self.down_blocks:
            x_BHWC = spread_batch(block(x_BHWC))
        return self.conv_out(nnx.silu(self.conv_norm_out(self.mid_block(x_BHWC))))


class EncoderBlock(nnx.Module):
    """Residual blocks at one resolution, then a halving unless it is the last one."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        config: AutoencoderKLConfig,
        *,
        downsample: bool,
        rngs: nnx.Rngs,
    ):
        self.resnets = nnx.List(
            layers.ResnetBlock(
                in_channels if i == 0 else channels,
                channels,
                config.norm_num_groups,
                dtype=config.dtype,
                rngs=rngs,
            )
            for i in range(config.layers_per_block)
        )
        self.downsamplers = nnx.List(
            [layers.Downsample(channels, dtype=config.dtype, rngs=rngs)] if downsample else []
        )

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        for layer in (*self.resnets, *self.downsamplers):
            x_BHWC = layer(x_BHWC)
        return x_BHWC


class Decoder(nnx.Module):
    """Latent map (after the post-quantization convolution) -> image."""

    def __init__(self, config: AutoencoderKLConfig, *, rngs: nnx.Rngs):
        channels, groups, dtype = (
            config.block_out_channels[::-1],
            config.norm_num_groups,
            config.dtype,
        )
        self.conv_in = layers.conv(
            config.latent_channels, channels[0], 3, padding=1, dtype=dtype, rngs=rngs
        )
        self.mid_block = layers.MidBlock(
            channels[0],
            groups,
            attention=config.mid_attention,
            dtype=dtype,
            products=config.products,
            rngs=rngs,
        )
        self.up_blocks = nnx.List(
            DecoderBlock(before, after, config, upsample=level + 1 < len(channels), rngs=rngs)
            for level, (before, after) in enumerate(
                zip(channels[:1] + channels[:-1], channels, strict=True)
            )
        )
        self.conv_norm_out = layers.GroupNorm(channels[-1], groups, dtype=dtype)
        self.conv_out = layers.conv(
            channels[-1], config.patch_channels, 3, padding=1, dtype=dtype, rngs=rngs
        )

    def __call__(self, latents_BHWC: jax.Array) -> jax.Array:
        x_BHWC = spread_batch(self.mid_block(self.conv_in(latents_BHWC)))
        for block in self.up_blocks:
            x_BHWC = spread_batch(block(x_BHWC))
        return self.conv_out(nnx.silu(self.conv_norm_out(x_BHWC)))


class DecoderBlock(nnx.Module):
    """Residual blocks at one resolution, then a doubling unless it is the finest one."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        config: AutoencoderKLConfig,
        *,
        upsample: bool,
        rngs: nnx.Rngs,
    ):
        self.resnets = nnx.List(
            layers.ResnetBlock(
                in_channels if i == 0 else channels,
                channels,
                config.norm_num_groups,
                dtype=config.dtype,
                rngs=rngs,
            )
            for i in range(config.layers_per_block + 1)
        )
        self.upsamplers = nnx.List(
            [layers.Upsample(channels, dtype=config.dtype, products=config.products, rngs=rngs)]
            if upsample
            else []
        )

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        for layer in (*self.resnets, *self.upsamplers):
            x_BHWC = layer(x_BHWC)
        return x_BHWC


class AutoencoderKL(nnx.Module):
    """Encodes images to a diagonal Gaussian over latents and decodes latents to images.

    Latents handed out by `sample_posterior` and taken by `decode` are SCALED: they were multiplied
    by `config.scaling_factor`. Images are float in [-1, 1].
    """

    def __init__(self, config: AutoencoderKLConfig, *, rngs: nnx.Rngs):
        self.config = config
        latent, dtype = config.latent_channels, config.dtype
        learned = bool(config.block_out_channels)
        self.encoder = Encoder(config, rngs=rngs) if learned else _unchanged
        self.decoder = Decoder(config, rngs=rngs) if learned else _unchanged
        inputs, logvar = (2 * latent, INITIAL_LOGVAR) if learned else (latent, LOGVAR_RANGE[0])
        self.quant_conv = layers.conv(inputs, 2 * latent, 1, dtype=dtype, rngs=rngs)
        self.quant_conv.bias = nnx.Param(jnp.repeat(jnp.array([0.0, logvar]), latent))
        self.post_quant_conv = layers.conv(latent, latent, 1, dtype=dtype, rngs=rngs)
        if not learned:
            self.quant_conv.kernel[...] = jnp.eye(latent, 2 * latent)[None, None]
            self.post_quant_conv.kernel[...] = jnp.eye(latent)[None, None]

    def encode(self, images_BHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and log-variance of the unscaled posterior.

        Args:
          images_BHWC: float, [-1, 1]; H and W multiples of `config.downsampling`.

        Returns:
          mean_BHWC, logvar_BHWC: float32, latent size; logvar is clamped to [-30, 20].
        """
        patches_BHWC = space_to_depth(images_BHWC, self.config.patch_size)
        moments = self.quant_conv(self.encoder(patches_BHWC)).astype(jnp.float32)
        mean_BHWC, logvar_BHWC = jnp.split(moments, 2, axis=-1)
        return mean_BHWC, jnp.clip(logvar_BHWC, *LOGVAR_RANGE)

    def sample_posterior(
        self, mean_BHWC: jax.Array, logvar_BHWC: jax.Array, key: jax.Array
    ) -> jax.Array:
        """A scaled latent from the posterior: the world model is trained on samples, not means."""
        noise_BHWC = jax.random.normal(key, mean_BHWC.shape, mean_BHWC.dtype)
        return self.scale_latents(mean_BHWC, logvar_BHWC, noise_BHWC)

    def scale_latents(
        self, mean_BHWC: jax.Array, logvar_BHWC: jax.Array, noise_BHWC: jax.Array
    ) -> jax.Array:
        """scaling_factor * (mean + std * noise)."""
        std_BHWC = jnp.exp(0.5 * logvar_BHWC)
        return self.config.scaling_factor * (mean_BHWC + std_BHWC * noise_BHWC)

    def decode(self, latents_BHWC: jax.Array) -> jax.Array:
        """Scaled latents -> float32 images, about [-1, 1] (not clipped)."""
        z_BHWC = self.post_quant_conv(latents_BHWC / self.config.scaling_factor)
        images_BHWC = depth_to_space(self.decoder(z_BHWC), self.config.patch_size)
        if not self.config.block_out_channels:
            images_BHWC += HALF_LEVEL  # `to_uint8` truncates: with it every pixel comes back
        return images_BHWC.astype(jnp.float32)


def _unchanged(x_BHWC: jax.Array) -> jax.Array:
    return x_BHWC


def space_to_depth(x_BHWC: jax.Array, side: int) -> jax.Array:
    """(B, H, W, C) -> (B, H / side, W / side, side * side * C)."""
    batch, height, width, channels = x_BHWC.shape
    rows, columns = height // side, width // side
    squares = x_BHWC.reshape(batch, rows, side, columns, side, channels).swapaxes(2, 3)
    return squares.reshape(batch, rows, columns, side * side * channels)


def depth_to_space(x_BHWC: jax.Array, side: int) -> jax.Array:
    """The inverse of `space_to_depth`."""
    batch, rows, columns, channels = x_BHWC.shape
    squares = x_BHWC.reshape(batch, rows, columns, side, side, channels // side**2)
    return squares.swapaxes(2, 3).reshape(batch, rows * side, columns * side, channels // side**2)


def kl_divergence(mean_BHWC: jax.Array, logvar_BHWC: jax.Array) -> jax.Array:
    """KL of the unscaled posterior from a standard normal, summed over H, W, C; float32 (B,)."""
    terms = jnp.square(mean_BHWC) + jnp.exp(logvar_BHWC) - 1.0 - logvar_BHWC
    return 0.5 * terms.sum((1, 2, 3))
