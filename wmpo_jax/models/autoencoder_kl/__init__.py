"""Image autoencoder (diffusers AutoencoderKL): pixels <-> the world model's latents."""

from wmpo_jax.models.autoencoder_kl.frames import (
    decode_frames,
    encode_frames,
    to_model_range,
    to_uint8,
)
from wmpo_jax.models.autoencoder_kl.model import (
    AutoencoderKL,
    AutoencoderKLConfig,
    kl_divergence,
)

__all__ = [
    "AutoencoderKL",
    "AutoencoderKLConfig",
    "decode_frames",
    "encode_frames",
    "kl_divergence",
    "to_model_range",
    "to_uint8",
]
