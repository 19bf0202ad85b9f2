"""The per-frame autoencoder: uint8 frames to scaled latents and back; its loss."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct

from wmpo_jax.models.autoencoder_kl import (
    AutoencoderKL,
    AutoencoderKLConfig,
    decode_frames,
    encode_frames,
    kl_divergence,
    to_model_range,
)

MICRO_BATCH_PIXELS = 512 * 32 * 32  # through the autoencoder at once


class FrameAutoencoder(struct.PyTreeNode):
    """The frozen autoencoder; a pytree of its parameters."""

    params: Any
    graphdef: Any = struct.field(pytree_node=False)

    def encode(self, frames_BTHWC: jax.Array, key: jax.Array) -> jax.Array:
        """uint8 frames -> latents of about unit variance, sampled from the posterior."""
        frames = _at_once(math.prod(frames_BTHWC.shape[2:4]))
        return encode_frames(self._network(), frames_BTHWC, key, micro_batch=frames)

    def decode(self, latents_BThwc: jax.Array) -> jax.Array:
        """Scaled latents -> uint8 frames."""
        network = self._network()
        pixels = math.prod(latents_BThwc.shape[2:4]) * network.config.downsampling**2
        return decode_frames(network, latents_BThwc, micro_batch=_at_once(pixels))

    def _network(self) -> AutoencoderKL:
        return nnx.merge(self.graphdef, self.params)


def _at_once(pixels: int) -> int:
    """Frames of so many pixels; map_rows takes one per device at least."""
    return max(1, MICRO_BATCH_PIXELS // pixels)


def build_autoencoder(config: AutoencoderKLConfig, seed: int = 0) -> AutoencoderKL:
    """The network with fresh weights."""
    return AutoencoderKL(config, rngs=nnx.Rngs(seed))


def make_autoencoder(config: AutoencoderKLConfig, params: Any) -> FrameAutoencoder:
    """The one constructor; `params` may be shapes."""
    return FrameAutoencoder(params, nnx.graphdef(nnx.eval_shape(lambda: build_autoencoder(config))))


def reconstruction_loss(
    network: AutoencoderKL, frames_BHWC: jax.Array, key: jax.Array, kl_weight: float
) -> tuple[jax.Array, Mapping[str, jax.Array]]:
    """Mean absolute plus squared error of the reconstruction of uint8 frames, and a light KL."""
    images = to_model_range(frames_BHWC)
    mean, logvar = network.encode(images)
    error = network.decode(network.sample_posterior(mean, logvar, key)) - images
    square = jnp.square(error).mean()
    divergence = kl_divergence(mean, logvar).mean()
    loss = square + 0.2 * jnp.abs(error).mean() + kl_weight * divergence
    return loss, {"psnr": psnr(square), "kl": divergence}


def psnr(mean_square: jax.Array) -> jax.Array:
    """In dB, of a mean squared error of images in [-1, 1]."""
    return 10.0 * jnp.log10(4.0 / mean_square)
