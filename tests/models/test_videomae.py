"""The classifier's own promises: window sharing is exact, the scan finds the first success."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from wmpo_jax.models.videomae import VideoMAE, VideoMAEConfig, score_windows
from wmpo_jax.models.videomae import preprocess as pixels


def frames(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


@pytest.fixture(scope="module")
def model() -> VideoMAE:
    return VideoMAE(VideoMAEConfig.tiny(num_labels=4), rngs=nnx.Rngs(0))


def test_shared_embedding_equals_naive_windows(model):
    video = frames(2, 10, 32, 32, 3)
    logits = score_windows(model, video, micro_batch=5)
    window = model.config.num_frames
    starts = range(video.shape[1] - window + 1)
    naive = [model(model.preprocess(video[:, s : s + window])) for s in starts]
    assert logits.shape == (2, len(starts), 4)
    np.testing.assert_allclose(logits, jnp.stack(naive, axis=1), atol=1e-5)


def test_windows_of_three_frames_per_tubelet():
    config = dataclasses.replace(VideoMAEConfig.tiny(num_frames=6), tubelet_size=3)
    model = VideoMAE(config, rngs=nnx.Rngs(0))
    video = frames(1, 8, 32, 32, 3)
    naive = [model(model.preprocess(video[:, s : s + 6])) for s in range(3)]
    shared = score_windows(model, video)
    np.testing.assert_allclose(shared, jnp.stack(naive, axis=1), atol=1e-5)


def test_base_has_the_released_sizes():
    config = VideoMAEConfig.base()
    graphdef, params = nnx.split(nnx.eval_shape(lambda: VideoMAE(config, rngs=nnx.Rngs(0))))
    layer = 4 * 768**2 + 3 * 768 + 4 * 768 + 2 * 768 * 3072 + 3072 + 768
    patches = 2 * 16 * 16 * 3 * 768 + 768
    head = 2 * 768 + 2 * 768 + 2
    assert sum(x.size for x in jax.tree.leaves(params)) == 12 * layer + patches + head
    assert config.num_tubelets * config.num_patches == 784
    windows = jax.ShapeDtypeStruct((2, 8, 224, 224, 3), jnp.float32)
    logits = jax.eval_shape(lambda p, x: nnx.merge(graphdef, p)(x), params, windows)
    assert logits.shape == (2, 2)


@pytest.mark.parametrize("height,width,size", [(40, 36, 32), (48, 64, 20), (20, 24, 32)])
def test_resize_is_pillows(height, width, size):
    frame = frames(height, width, 3)
    short = min(height, width)
    target = (int(size * width / short), int(size * height / short))
    expected = Image.fromarray(np.asarray(frame)).resize(target, Image.Resampling.BILINEAR)
    ours = pixels.resize_shortest_edge(frame, size)
    np.testing.assert_array_equal(ours, np.asarray(expected))


def test_preprocess_at_native_size_only_normalizes(model):
    video = frames(1, 2, 32, 32, 3)
    np.testing.assert_allclose(model.preprocess(video), video / 127.5 - 1.0, atol=1e-6)
