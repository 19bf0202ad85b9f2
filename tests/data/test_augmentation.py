"""Each operation gives TensorFlow's pixels; draws keep their ranges and differ between images."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wmpo_jax.data import augmentation


@pytest.fixture(scope="module")
def tf() -> Any:
    return pytest.importorskip("tensorflow")


@pytest.fixture(params=[32, 224])
def image_HWC(request: pytest.FixtureRequest) -> np.ndarray:
    """float32 in 0..1 with grays, pure colors, black and white beside noise."""
    image_HWC = np.random.default_rng(0).random((request.param, request.param, 3), np.float32)
    image_HWC[0] = image_HWC[0, :, :1]
    image_HWC[1] = (image_HWC[1] > 0.5).astype(np.float32)
    image_HWC[2, :3], image_HWC[2, 3:6] = 0.0, 1.0
    return image_HWC


@pytest.mark.parametrize(("top", "left", "side"), [(0.0, 0.05, 0.9**0.5), (0.3, 0.1, 0.5)])
def test_crop(tf, image_HWC, top, left, side):
    size = image_HWC.shape[:2]
    boxes = [[top, left, top + side, left + side]]
    expected = tf.image.crop_and_resize(image_HWC[None], boxes, [0], size)[0].numpy()
    found = augmentation.crop_and_resize(jnp.asarray(image_HWC), jnp.float32(top), left, side)
    np.testing.assert_allclose(found, expected, atol=1e-4)  # float32 places of 224 pixels


@pytest.mark.parametrize(
    ("name", "amount"),
    [
        *[("adjust_brightness", amount) for amount in (-0.2, 0.13)],
        *[("adjust_contrast", amount) for amount in (0.8, 1.2)],
        *[("adjust_saturation", amount) for amount in (0.0, 0.8, 1.2, 3.0)],
        *[("adjust_hue", amount) for amount in (-0.05, 0.05, 0.4, -0.7)],
    ],
)
def test_color(tf, image_HWC, name, amount):
    expected = np.clip(getattr(tf.image, name)(image_HWC, amount).numpy(), 0.0, 1.0)
    found = getattr(augmentation, name)(jnp.asarray(image_HWC), amount)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_the_whole_equals_tensorflow_with_the_same_draw(tf):
    frame_HWC = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    amounts = (0.01, 0.04, 0.1, 0.9, 1.1, -0.03)
    found = augmentation.apply(jnp.asarray(frame_HWC), augmentation.Draw(*map(jnp.array, amounts)))

    top, left, *colors = amounts
    side = 0.9**0.5
    image = tf.image.convert_image_dtype(frame_HWC, tf.float32)
    image = tf.image.crop_and_resize(
        image[None], [[top, left, top + side, left + side]], [0], (32, 32)
    )[0]
    for name, amount in zip(("brightness", "contrast", "saturation", "hue"), colors, strict=True):
        image = tf.clip_by_value(getattr(tf.image, f"adjust_{name}")(image, amount), 0.0, 1.0)
    expected = tf.image.convert_image_dtype(image, tf.uint8, saturate=True).numpy()
    # Rounding may carry a value over the edge where it is truncated.
    difference = np.abs(np.asarray(found, int) - expected.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.002


def test_draws_fill_their_ranges_and_are_independent():
    draws = jax.vmap(augmentation.draw)(jax.random.split(jax.random.key(0), 1000))
    free = 1 - 0.9**0.5
    ranges = [(0, free), (0, free), (-0.2, 0.2), (0.8, 1.2), (0.8, 1.2), (-0.05, 0.05)]
    for name, values, (low, high) in zip(draws._fields, draws, ranges, strict=True):
        margin = 0.01 * (high - low)
        assert low - 1e-6 <= values.min() < low + margin, name
        assert high - margin < values.max() <= high + 1e-6, name
    correlation = np.corrcoef(np.stack(draws)) - np.eye(len(ranges))
    assert np.abs(correlation).max() < 0.12


def test_equal_images_differ_afterwards_and_the_key_decides():
    frame_HWC = np.random.default_rng(2).integers(0, 256, (32, 32, 3), np.uint8)
    frames_BHWC = jnp.asarray(np.stack([frame_HWC] * 3))
    key = jax.random.key(4)
    augment = jax.jit(augmentation.augment)
    found = augment(key, frames_BHWC)
    assert found.dtype == jnp.uint8 and found.shape == frames_BHWC.shape
    assert (found[0] != found[1]).any() and (found[1] != found[2]).any()
    np.testing.assert_array_equal(found, augment(key, frames_BHWC))
    assert (found != augment(jax.random.key(5), frames_BHWC)).any()


def test_compiled_and_mapped_it_is_the_same():
    generator = np.random.default_rng(3)
    frames_NBHWC = jnp.asarray(generator.integers(0, 256, (2, 2, 32, 32, 3), np.uint8))
    keys_N = jax.random.split(jax.random.key(0), 2)
    mapped = jax.jit(jax.vmap(augmentation.augment))(keys_N, frames_NBHWC)
    for place in range(2):
        alone = jax.jit(augmentation.augment)(keys_N[place], frames_NBHWC[place])
        difference = np.abs(np.asarray(mapped[place], int) - np.asarray(alone, int))
        assert difference.max() <= 1  # truncation shows the last bit
