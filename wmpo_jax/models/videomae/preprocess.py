"""Input frames of the classifier: Pillow's bilinear resize, center crop, normalization.

The original resizes uint8 images with Pillow. The same integer arithmetic runs here on the device,
so that pixels agree exactly and imagined frames never visit the host.
"""

import jax
import jax.numpy as jnp
import numpy as np

PILLOW_PRECISION_BITS = 22


def preprocess(
    frames_BTHWC: jax.Array,
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> jax.Array:
    """uint8 frames -> normalized float32 crops.

    Args:
      frames_BTHWC: uint8, any number of leading axes.
      size: side of the square result in pixels; the shortest edge is resized to it first.
      mean, std: per channel, of pixels in [0, 1].

    Returns:
      float32 (..., size, size, C).
    """
    square = center_crop(resize_shortest_edge(frames_BTHWC, size), size)
    gain = np.float32(1.0) / (255.0 * np.asarray(std, np.float32))
    offset = np.asarray(mean, np.float32) / np.asarray(std, np.float32)
    gain, offset = (x.reshape(*[1] * (square.ndim - 1), -1) for x in (gain, offset))
    return square.astype(jnp.float32) * gain - offset


def resize_shortest_edge(frames_BTHWC: jax.Array, size: int) -> jax.Array:
    """uint8 -> uint8; the shorter side becomes `size`, the longer keeps the aspect (floor)."""
    height, width = frames_BTHWC.shape[-3:-1]
    short = min(height, width)
    frames_BTHWC = _resize_axis(frames_BTHWC, int(size * width / short), axis=-2)
    return _resize_axis(frames_BTHWC, int(size * height / short), axis=-3)


def center_crop(frames_BTHWC: jax.Array, size: int) -> jax.Array:
    """Cuts the middle `size` x `size` pixels; an odd surplus leaves the extra row at the end."""
    top, left = ((side - size) // 2 for side in frames_BTHWC.shape[-3:-1])
    return frames_BTHWC[..., top : top + size, left : left + size, :]


def _resize_axis(frames: jax.Array, size: int, *, axis: int) -> jax.Array:
    """One pass of Pillow's resize: int32 sums of weighted taps, then one rounding to uint8."""
    if frames.shape[axis] == size:
        return frames
    index, weight = _taps(frames.shape[axis], size)
    moved = jnp.moveaxis(frames, axis, -1).astype(jnp.int32)
    total = jnp.full((*moved.shape[:-1], size), 1 << (PILLOW_PRECISION_BITS - 1), jnp.int32)
    for tap in range(index.shape[1]):
        total += moved[..., index[:, tap]] * weight[:, tap].reshape(*[1] * (moved.ndim - 1), -1)
    pixels = jnp.clip(total >> PILLOW_PRECISION_BITS, 0, 255).astype(jnp.uint8)
    return jnp.moveaxis(pixels, -1, axis)


def _taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """Source pixels and fixed-point weights of every output pixel, both (new, taps).

    A triangle filter, widened by the scale when shrinking, centered on half-pixel positions.
    """
    scale = old / new
    support = max(scale, 1.0)
    center = (np.arange(new) + 0.5) * scale
    first = np.maximum((center - support + 0.5).astype(int), 0)
    end = np.minimum((center + support + 0.5).astype(int), old)
    index = first[:, None] + np.arange((end - first).max())
    distance = np.abs(index - center[:, None] + 0.5) / support
    weight = np.where(index < end[:, None], np.maximum(1.0 - distance, 0.0), 0.0)
    weight /= weight.sum(1, keepdims=True)
    fixed = np.floor(weight * (1 << PILLOW_PRECISION_BITS) + 0.5).astype(np.int32)
    return np.minimum(index, old - 1), fixed
