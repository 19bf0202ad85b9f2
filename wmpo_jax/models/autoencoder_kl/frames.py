"""Pixels of videos to latents and back: value ranges, time folded into the batch, small batches."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from wmpo_jax.models.autoencoder_kl.model import AutoencoderKL
from wmpo_jax.models.micro_batches import map_rows


def to_model_range(pixels: jax.Array) -> jax.Array:
    """uint8 0..255 -> float32 in [-1, 1], any shape."""
    return pixels.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(images: jax.Array) -> jax.Array:
    """Float images, [-1, 1] -> uint8, any shape; truncates like the reference, does not round."""
    return jnp.clip((images * 0.5 + 0.5) * 255.0, 0.0, 255.0).astype(jnp.uint8)


def encode_frames(
    model: AutoencoderKL, frames_BTHWC: jax.Array, key: jax.Array, *, micro_batch: int = 64
) -> jax.Array:
    """uint8 video -> scaled latents sampled from the posterior, each frame on its own.

    Args:
      frames_BTHWC: uint8; any number of leading axes is allowed.
      key: one key for all frames.
      micro_batch: frames that are in memory at once; the reference uses 64.

    Returns:
      latents_BTHWC: float32, latent rows, columns and channels.
    """

    def moments(chunk_BHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
        return model.encode(to_model_range(chunk_BHWC))

    mean_BTHWC, logvar_BTHWC = _map_frames(moments, frames_BTHWC, micro_batch)
    return model.sample_posterior(mean_BTHWC, logvar_BTHWC, key)


def decode_frames(
    model: AutoencoderKL, latents_BTHWC: jax.Array, *, micro_batch: int = 64
) -> jax.Array:
    """Scaled latents of a video -> uint8 frames; the inverse of `encode_frames`."""
    return _map_frames(lambda z_BHWC: to_uint8(model.decode(z_BHWC)), latents_BTHWC, micro_batch)


def _map_frames(
    function: Callable[[jax.Array], jax.Array | tuple[jax.Array, jax.Array]],
    frames_BTHWC: jax.Array,
    micro_batch: int,
):
    """Applies `function` to (micro_batch, H, W, C) pieces and restores the leading axes."""
    lead = frames_BTHWC.shape[:-3]
    flat_BHWC = frames_BTHWC.reshape(-1, *frames_BTHWC.shape[-3:])
    out = map_rows(function, flat_BHWC, micro_batch)
    return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), out)
