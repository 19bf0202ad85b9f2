"""The head that draws frames at full resolution and moves what is there."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wmpo_jax.models.autoencoder_kl.model import depth_to_space, space_to_depth
from wmpo_jax.models.stdit import STDiT, STDiTConfig
from wmpo_jax.models.stdit.refine import REACH, displaced

CONFIG = dataclasses.replace(
    STDiTConfig.tiny(action_dim=3, chunk=3, history=2),
    in_channels=12,
    patch=(4, 4),
    hidden=32,
    depth=1,
    heads=2,
    fine=8,
    copies=2,
    pixel_side=2,
)
T_B = jnp.full(2, 1000.0)


@pytest.fixture(scope="module")
def network() -> STDiT:
    return STDiT(CONFIG, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def awake(network) -> STDiT:
    """No parameter is zero."""
    graphdef, params = nnx.split(network)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [p + 0.1 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    return nnx.merge(graphdef, jax.tree.unflatten(tree, noisy))


def inputs() -> tuple[jax.Array, jax.Array, jax.Array]:
    latents = jax.random.normal(jax.random.key(2), (2, 5, 16, 16, 12))
    actions = jax.random.normal(jax.random.key(3), (2, 3, 3))
    return latents, actions, jnp.broadcast_to(jnp.arange(5) >= 2, (2, 5))


def test_the_cached_history_gives_the_same_chunk(awake):
    latents, actions, mask = inputs()
    whole = awake(latents, T_B, actions, mask, 32, 32)[:, 2:]
    cache = awake.encode_history(latents[:, :2], 32, 32)
    chunk = awake.denoise(latents[:, 2:], T_B, actions, cache, 32, 32)
    assert np.abs(chunk).max() > 0.1
    np.testing.assert_allclose(chunk, whole, atol=1e-4)


def test_before_training_nothing_changes(network):
    latents, actions, mask = inputs()
    # Copies are displaced from the start, and blended with equal weights.
    still = network(latents, T_B, 0 * actions, mask, 32, 32)
    np.testing.assert_allclose(still, 0.0, atol=1e-5)


@pytest.mark.parametrize("down, right", [(2.0, -3.0), (0.0, 0.0), (0.5, 0.0)])
def test_copies_are_moved_with_linear_interpolation(down, right):
    frame = jax.random.normal(jax.random.key(0), (1, 12, 12, 3))
    moved = displaced(frame, jnp.array([[[down, right]]]))[0, 0]
    low = np.roll(frame[0], (int(np.floor(down)), int(right)), (0, 1))
    high = np.roll(frame[0], (int(np.ceil(down)), int(right)), (0, 1))
    np.testing.assert_allclose(moved[3:-3, 3:-3], (0.5 * (low + high))[3:-3, 3:-3], atol=1e-6)


def test_what_leaves_the_frame_is_gone():
    moved = displaced(jnp.ones((1, 8, 8, 1)), jnp.array([[[0.0, 20.0]]]))
    np.testing.assert_array_equal(moved, 0.0)


def test_one_copy_moves_the_pixels_of_the_frame(network):
    graphdef, params = nnx.split(network)
    chosen = nnx.merge(graphdef, params)
    copies = chosen.fine_head.copies
    copies.by_action.bias[...] = jnp.array([1.0, 2.0, 0.0, 0.0]) / REACH
    masks = jnp.tile(jnp.array([80.0, 0.0, 0.0]), 4)  # all of every pixel from the first copy
    copies.masks.bias[...] = masks
    copies.masks.kernel[...] = jnp.zeros_like(copies.masks.kernel[...])
    latents, actions, mask = inputs()
    change = chosen(latents, T_B, 0 * actions, mask, 32, 32)[:, 2:]
    before = depth_to_space(latents[:, 2:].reshape(-1, 16, 16, 12), 2)
    after = depth_to_space((latents[:, 2:] + change).reshape(-1, 16, 16, 12), 2)
    np.testing.assert_allclose(after[:, 1:, 2:], before[:, :-1, :-2], atol=1e-4)
    np.testing.assert_array_equal(space_to_depth(before, 2), latents[:, 2:].reshape(-1, 16, 16, 12))
