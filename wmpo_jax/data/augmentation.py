"""Image augmentation of supervised fine-tuning, as OpenVLA trains; all of it runs on the device.

Operations, ranges and order are the reference's (commit 09f60b7,
dependencies/openvla-oft/prismatic/vla/datasets/datasets.py:151-165): a crop of 0.9 of the area that
is resized back, then brightness, contrast, saturation and hue. The operations are
those of TensorFlow that `dlimp/augmentations.py` applies (github.com/kvablack/dlimp), with values
clipped to 0..1 after each.

One difference: dlimp draws the vertical and the horizontal offset of a crop from the same seed, so
that its crops differ along the image's diagonal only; here the two offsets are independent.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

CROP_SIDE = math.sqrt(0.9)  # of a crop with 0.9 of the image's area
BRIGHTNESS = 0.2  # added to values of 0..1, at most, up or down
CONTRAST = (0.8, 1.2)
SATURATION = (0.8, 1.2)
HUE = 0.05  # of a full turn, at most, either way


class Draw(NamedTuple):
    """What one image gets: float32 scalars, in the ranges above; `top` and `left` in 0..0.051."""

    top: jax.Array
    left: jax.Array
    brightness: jax.Array
    contrast: jax.Array
    saturation: jax.Array
    hue: jax.Array


def augment(key: jax.Array, frames_BHWC: jax.Array) -> jax.Array:
    """uint8 [B, H, W, 3] -> uint8 [B, H, W, 3]; every image has its own draw.

    It takes the place of the center crop that evaluation makes (`transforms.center_crop`, also 0.9
    of the area): both show the policy objects enlarged by 1 / sqrt(0.9), at evaluation those of the
    middle. Train on frames of the policy's size that were not cropped: resize, augment, normalize.
    """
    keys_B = jax.random.split(key, frames_BHWC.shape[0])
    return jax.vmap(apply)(frames_BHWC, jax.vmap(draw)(keys_B))


def draw(key: jax.Array) -> Draw:
    """All amounts are uniform and independent."""
    low = jnp.array([0.0, 0.0, -BRIGHTNESS, CONTRAST[0], SATURATION[0], -HUE])
    free = 1.0 - CROP_SIDE
    high = jnp.array([free, free, BRIGHTNESS, CONTRAST[1], SATURATION[1], HUE])
    return Draw(*jax.random.uniform(key, (6,), minval=low, maxval=high))


def apply(frame_HWC: jax.Array, amounts: Draw) -> jax.Array:
    """uint8 [H, W, 3] -> uint8 [H, W, 3]: the five operations in the reference's order."""
    image_HWC = frame_HWC.astype(jnp.float32) / 255.0
    image_HWC = crop_and_resize(image_HWC, amounts.top, amounts.left, CROP_SIDE)
    image_HWC = adjust_brightness(image_HWC, amounts.brightness)
    image_HWC = adjust_contrast(image_HWC, amounts.contrast)
    image_HWC = adjust_saturation(image_HWC, amounts.saturation)
    image_HWC = adjust_hue(image_HWC, amounts.hue)
    return (image_HWC * 255.5).astype(jnp.uint8)  # TensorFlow's convert_image_dtype


def crop_and_resize(
    image_HWC: jax.Array, top: jax.Array, left: jax.Array, side: float
) -> jax.Array:
    """float32 [H, W, C] -> the same shape: the box magnified to the image's size.

    Bilinear without antialiasing; the corner pixels of the result are the corners of the box.

    Args:
      top, left: float32 scalars, the box's first corner as fractions of the image.
      side: the box's side as a fraction of the image's; `top + side` and `left + side` <= 1.
    """
    extent = jnp.array(image_HWC.shape[:2], jnp.float32)
    first = jnp.stack([jnp.asarray(top), jnp.asarray(left)]) * (extent - 1.0)
    # Pixel i of the result is sampled at first + i * side; JAX measures from the pixels' edges.
    translation = 0.5 - (first + 0.5) / side
    scale, shape = jnp.full(2, 1.0 / side, jnp.float32), image_HWC.shape
    return jax.image.scale_and_translate(
        image_HWC, shape, (0, 1), scale, translation, "linear", antialias=False
    )


def adjust_brightness(image_HWC: jax.Array, delta: jax.Array) -> jax.Array:
    """float32 in 0..1, the same shape: x + delta."""
    return jnp.clip(image_HWC + delta, 0.0, 1.0)


def adjust_contrast(image_HWC: jax.Array, factor: jax.Array) -> jax.Array:
    """float32 in 0..1, the same shape: distances from the mean of each channel times `factor`."""
    mean_C = image_HWC.mean(axis=(0, 1), keepdims=True)
    return jnp.clip((image_HWC - mean_C) * factor + mean_C, 0.0, 1.0)


def adjust_saturation(image_HWC: jax.Array, factor: jax.Array) -> jax.Array:
    """float32 RGB in 0..1, the same shape: HSV's saturation times `factor`, at most 1.

    Hue and value stay as they are, so distances from the largest channel change by one ratio.
    """
    value_HW1 = image_HWC.max(axis=-1, keepdims=True)
    chroma_HW1 = value_HW1 - image_HWC.min(axis=-1, keepdims=True)
    ratio_HW1 = jnp.minimum(factor, value_HW1 / jnp.where(chroma_HW1 > 0, chroma_HW1, 1.0))
    return jnp.clip(value_HW1 - (value_HW1 - image_HWC) * ratio_HW1, 0.0, 1.0)


def adjust_hue(image_HWC: jax.Array, delta: jax.Array) -> jax.Array:
    """float32 RGB in 0..1, the same shape: HSV's hue turned by `delta`, a fraction of a turn."""
    least_HW1 = image_HWC.min(axis=-1, keepdims=True)
    chroma_HW1 = image_HWC.max(axis=-1, keepdims=True) - least_HW1
    hue_HW1 = jnp.mod(_hue(image_HWC, chroma_HW1) + 6.0 * delta, 6.0)
    red, green, blue = jnp.abs(hue_HW1 - 3) - 1, 2 - jnp.abs(hue_HW1 - 2), 2 - jnp.abs(hue_HW1 - 4)
    shares_HWC = jnp.clip(jnp.concatenate([red, green, blue], axis=-1), 0.0, 1.0)
    return jnp.clip(least_HW1 + chroma_HW1 * shares_HWC, 0.0, 1.0)


def _hue(image_HWC: jax.Array, chroma_HW1: jax.Array) -> jax.Array:
    """float32 [H, W, 1]: HSV's hue in sixths of a turn, -1..5; 0 for gray."""
    red, green, blue = jnp.split(image_HWC, 3, axis=-1)
    chroma = jnp.where(chroma_HW1 > 0, chroma_HW1, 1.0)
    from_red, from_green = (green - blue) / chroma, 2.0 + (blue - red) / chroma
    from_blue = 4.0 + (red - green) / chroma
    value = image_HWC.max(axis=-1, keepdims=True)
    return jnp.where(value == red, from_red, jnp.where(value == green, from_green, from_blue))
