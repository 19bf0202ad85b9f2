"""Frames reach the policy as in the original pipeline."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden.loader import golden_files, load
from wmpo_jax.data import jpeg
from wmpo_jax.data.transforms import (
    ImageTransform,
    ImageTransformConfig,
    center_crop,
    lanczos3_resize,
    lanczos3_weights,
    normalize_twice,
)

AREA = 0.9
DENSITY_BYTES = [13, 14, 15, 16, 17]  # units and pixels per inch in the file's header


@pytest.fixture(params=golden_files("preproc"), ids=lambda path: path.stem, scope="module")
def golden(request):
    return load(request.param)


def test_golden_jpeg(golden):
    """TensorFlow's file but for five bytes that hold no pixels, and exactly its pixels."""
    tensors, _ = golden
    theirs = tensors["out.jpeg_bytes"].tobytes()
    ours = jpeg.encode(tensors["in.image"])
    assert len(ours) == len(theirs)
    assert [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b] == DENSITY_BYTES
    np.testing.assert_array_equal(jpeg.decode(theirs), tensors["out.jpeg_roundtrip"])
    round_trip = jax.jit(jpeg.jpeg_round_trip)(jnp.asarray(tensors["in.image"])[None])[0]
    np.testing.assert_array_equal(round_trip, tensors["out.jpeg_roundtrip"])


def assert_same_pixels(actual, desired):
    """uint8 images agree; float rounding may move a few values in a hundred thousand by one."""
    difference = np.abs(np.asarray(actual).astype(int) - desired)
    assert difference.max() <= 1
    assert (difference > 0).sum() <= max(2, 2e-4 * difference.size)


def size_of(tensors):
    return len(tensors["out.resized"])


@pytest.mark.parametrize(
    "source, result", [("out.jpeg_roundtrip", "resized"), ("in.image", "resized_without_jpeg")]
)
def test_golden_resize(golden, source, result):
    tensors, _ = golden
    resized = lanczos3_resize(jnp.asarray(tensors[source])[None], size_of(tensors))[0]
    assert_same_pixels(resized, tensors[f"out.{result}"])


def test_golden_resize_before_rounding(golden):
    tensors, _ = golden
    image = tensors["out.jpeg_roundtrip"].astype(np.float64)
    rows, columns = (lanczos3_weights(n, size_of(tensors)) for n in image.shape[:2])
    resized = np.einsum("oh,hwc,pw->opc", rows, image, columns, optimize=True)
    np.testing.assert_allclose(resized, tensors["out.resized_float"], atol=4e-3)


@pytest.mark.parametrize(
    "source, result", [("out.resized", "cropped"), ("in.image", "cropped_direct_from_256")]
)
def test_golden_crop(golden, source, result):
    tensors, _ = golden
    cropped = center_crop(jnp.asarray(tensors[source])[None], AREA, size_of(tensors))[0]
    assert_same_pixels(cropped, tensors[f"out.{result}"])


def test_golden_crop_before_truncation(golden):
    """Truncating x * 255.5 shows the float image to within one level and no more."""
    tensors, _ = golden
    cropped = center_crop(jnp.asarray(tensors["out.resized"])[None], AREA, size_of(tensors))[0]
    level = np.clip(tensors["out.cropped_float"], 0.0, 1.0) * 255.5 - np.asarray(cropped)
    assert level.min() > -1e-3 and level.max() < 1 + 1e-3


def test_golden_pixel_values(golden):
    tensors, metadata = golden
    means, stds = metadata["processor"]["mean"], metadata["processor"]["std"]
    pixels = normalize_twice(jnp.asarray(tensors["out.cropped"])[None], means, stds)[0]
    theirs = np.moveaxis(tensors["out.pixel_values"], 0, -1)
    np.testing.assert_allclose(pixels, theirs, atol=1e-5)


def test_golden_whole_transform(golden):
    """All stages in one call: a pixel that was rounded the other way is one level off."""
    tensors, metadata = golden
    means, stds = metadata["processor"]["mean"], metadata["processor"]["std"]
    config = ImageTransformConfig(
        size_of(tensors), lanczos_resize=True, crop_area=AREA, means=means, stds=stds, jpeg=True
    )
    pixels = ImageTransform(config)(jnp.asarray(tensors["in.image"])[None])[0]
    assert_within_a_level(pixels, tensors["out.pixel_values"], stds)


def assert_within_a_level(pixels_HWC, theirs_CHW, stds):
    """Few pixels differ, by one level: `stds` bring both towers' numbers back to levels."""
    difference = np.abs(pixels_HWC - np.moveaxis(theirs_CHW, 0, -1))
    levels = difference * 255 * np.asarray(stds, np.float32).ravel()
    assert levels.max() < 1.01
    # One pixel of the resize reaches up to four of the crop, and each shows in both towers.
    assert (levels > 0.01).sum() <= max(16, 1e-3 * levels.size)
