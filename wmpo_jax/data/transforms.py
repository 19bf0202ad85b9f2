"""From a camera frame to what the policy's towers see: the only place where that is decided.

Training, imagination and evaluation all call one `ImageTransform` (reference at 09f60b7:
verl/workers/rollout/robwm_rollout.py:80-145, verl/utils/libero_utils.py:36-52), and all of it but
the optional JPEG runs on the device. Each geometric stage returns uint8, rounded as the reference
does.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from wmpo_jax.data.augmentation import augment
from wmpo_jax.data.jpeg import jpeg_round_trip

Triple = tuple[float, float, float]
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
# The same numbers rounded to bfloat16, as they stand in OpenVLA's preprocessor_config.json.
OPENVLA_MEAN: Triple = (0.484375, 0.455078125, 0.40625)
OPENVLA_STD: Triple = (0.228515625, 0.2236328125, 0.224609375)
HALF: Triple = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class ImageTransformConfig:
    """What happens between camera and towers.

    Attributes:
      size: side of the image that the policy sees, pixels.
      lanczos_resize: resize to `size` before the crop. The reference does so with imagined frames
        but not with simulator frames.
      crop_area: share of the image's area that the center crop keeps; 1.0 keeps all of it.
      means, stds: one normalization per tower, DINOv2 then SigLIP, of values in 0..1.
      jpeg: compress and decompress first, as the reference does with imagined frames. Host code.
    """

    size: int
    lanczos_resize: bool
    crop_area: float
    means: tuple[Triple, Triple] = (IMAGENET_MEAN, HALF)
    stds: tuple[Triple, Triple] = (IMAGENET_STD, HALF)
    jpeg: bool = False

    @classmethod
    def tiny(cls) -> "ImageTransformConfig":
        """32-pixel frames go in as they are."""
        return cls(size=32, lanczos_resize=False, crop_area=1.0)

    @classmethod
    def openvla(cls, *, lanczos_resize: bool = True, jpeg: bool = False) -> "ImageTransformConfig":
        """OpenVLA's evaluation transform: 224 pixels, center crop of 90 % of the area."""
        return cls(
            size=224,
            lanczos_resize=lanczos_resize,
            crop_area=0.9,
            means=(OPENVLA_MEAN, HALF),
            stds=(OPENVLA_STD, HALF),
            jpeg=jpeg,
        )


class ImageTransform:
    """frame_BHWC uint8 [B, any, any, 3] -> pixels_BHWC float32 [B, size, size, 6]."""

    def __init__(self, config: ImageTransformConfig):
        self.config = config

    def __call__(self, frame_BHWC: jax.Array) -> jax.Array:
        config = self.config
        if config.jpeg:
            frame_BHWC = jpeg_round_trip(frame_BHWC)
        if config.lanczos_resize:
            frame_BHWC = lanczos3_resize(frame_BHWC, config.size)
        if config.crop_area < 1.0 or frame_BHWC.shape[1:3] != (config.size, config.size):
            frame_BHWC = center_crop(frame_BHWC, config.crop_area, config.size)
        return normalize_twice(frame_BHWC, config.means, config.stds)

    def augmented(self, key: jax.Array, frame_BHWC: jax.Array) -> jax.Array:
        """As a call, for training: random crops and colors in the place of the center crop."""
        config = self.config
        if frame_BHWC.shape[1:3] != (config.size, config.size):
            frame_BHWC = lanczos3_resize(frame_BHWC, config.size)
        return normalize_twice(augment(key, frame_BHWC), config.means, config.stds)


def lanczos3_resize(frame_BHWC: jax.Array, size: int) -> jax.Array:
    """uint8 -> uint8 [B, size, size, C]: separable, antialiased, then rounded half to even."""
    rows_OH = lanczos3_weights(frame_BHWC.shape[1], size)
    columns_OW = lanczos3_weights(frame_BHWC.shape[2], size)
    resized = _separable(frame_BHWC.astype(jnp.float32), rows_OH, columns_OW)
    return jnp.clip(jnp.round(resized), 0.0, 255.0).astype(jnp.uint8)


def center_crop(frame_BHWC: jax.Array, area: float, size: int) -> jax.Array:
    """uint8 -> uint8 [B, size, size, C]: TensorFlow's crop_and_resize of the centered box.

    Bilinear with aligned corners and without antialiasing; back to uint8 by truncating x * 255.5.
    Truncation shows every rounding error, so this follows TensorFlow operation by operation.
    """
    unit_BHWC = frame_BHWC.astype(jnp.float32) * np.float32(1.0 / 255.0)
    columns = _sample_linearly(unit_BHWC, crop_places(frame_BHWC.shape[2], size, area), axis=2)
    cropped = _sample_linearly(columns, crop_places(frame_BHWC.shape[1], size, area), axis=1)
    return (jnp.clip(cropped, 0.0, 1.0) * 255.5).astype(jnp.uint8)


def normalize_twice(
    frame_BHWC: jax.Array, means: tuple[Triple, Triple], stds: tuple[Triple, Triple]
) -> jax.Array:
    """uint8 [..., 3] -> float32 [..., 6]: (x / 255 - mean) / std with both towers' numbers."""
    mean_C = np.asarray(means, np.float32).reshape(1, 1, 1, 6)
    std_C = np.asarray(stds, np.float32).reshape(1, 1, 1, 6)
    unit_BHWC = frame_BHWC.astype(jnp.float32) / 255.0
    return (jnp.concatenate([unit_BHWC, unit_BHWC], axis=-1) - mean_C) / std_C


def lanczos3_weights(n_in: int, n_out: int) -> np.ndarray:
    """float32 [n_out, n_in]: half-pixel centers, kernel widened when shrinking, rows sum to 1."""
    scale = n_in / n_out
    center_O = (np.arange(n_out) + 0.5) * scale
    distance_OI = (np.arange(n_in)[None] + 0.5 - center_O[:, None]) / max(scale, 1.0)
    kernel_OI = np.sinc(distance_OI) * np.sinc(distance_OI / 3.0) * (np.abs(distance_OI) < 3.0)
    return (kernel_OI / kernel_OI.sum(axis=1, keepdims=True)).astype(np.float32)


def crop_places(n_in: int, n_out: int, area: float) -> np.ndarray:
    """float32 [n_out]: where along an axis of n_in pixels the centered box is sampled.

    (1 - s)/2 (n_in - 1) + i s (n_in - 1)/(n_out - 1) with s = sqrt(area), in float32 throughout.
    """
    one, last = np.float32(1.0), np.float32(n_in - 1)
    side = np.sqrt(np.float32(area))
    begin = (one - side) / np.float32(2.0)
    step = (one - begin - begin) * last / np.float32(n_out - 1)
    return begin * last + np.arange(n_out, dtype=np.float32) * step


def _sample_linearly(image_BHWC: jax.Array, place_O: np.ndarray, axis: int) -> jax.Array:
    low_O = np.floor(place_O)
    high_O = np.minimum(np.ceil(place_O), image_BHWC.shape[axis] - 1)
    fraction_O = np.expand_dims(place_O - low_O, [i for i in range(4) if i != axis])
    low = jnp.take(image_BHWC, low_O.astype(np.int32), axis=axis)
    high = jnp.take(image_BHWC, high_O.astype(np.int32), axis=axis)
    return low + (high - low) * fraction_O


def _separable(image_BHWC: jax.Array, rows_OH: np.ndarray, columns_OW: np.ndarray) -> jax.Array:
    """Rows then columns, in full float32 on every device: the stage rounds to uint8."""
    precision = jax.lax.Precision.HIGHEST
    image_BHWC = jnp.einsum("oh,bhwc->bowc", rows_OH, image_BHWC, precision=precision)
    return jnp.einsum("ow,bhwc->bhoc", columns_OW, image_BHWC, precision=precision)
