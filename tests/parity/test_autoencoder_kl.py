"""Our autoencoder against diffusers' AutoencoderKL, stage by stage in float32."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.parity.layers import assert_close, both, recorded
from wmpo_jax.conversion import reference_models


def stages(coder):
    """The modules of an encoder or decoder in the order they run, ours and theirs alike."""
    if hasattr(coder, "down_blocks"):
        return [coder.conv_in, *coder.down_blocks, coder.mid_block]
    return [coder.conv_in, coder.mid_block, *coder.up_blocks]


@pytest.mark.parametrize(
    "changes",
    [{}, {"block_out_channels": (8, 16, 24), "layers_per_block": 2}, {"mid_attention": False}],
)
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_every_stage(part, changes):
    ours, weights = both("autoencoder", seed=7, **changes)
    theirs = reference_models.autoencoder(weights, ours.config)
    channels = 3 if part == "encoder" else ours.config.latent_channels
    x_BHWC = np.random.default_rng(8).normal(size=(2, 16, 16, channels)).astype(np.float32)
    x_BCHW = torch.from_numpy(x_BHWC).permute(0, 3, 1, 2)
    with recorded(stages(getattr(theirs, part))) as layers:
        final = getattr(theirs, part)(x_BCHW).numpy()
    hidden = jnp.asarray(x_BHWC)
    for stage, layer in zip(stages(getattr(ours, part)), layers, strict=True):
        hidden = stage(hidden)
        assert_close(hidden, np.moveaxis(layer, 1, -1))
    assert_close(getattr(ours, part)(jnp.asarray(x_BHWC)), np.moveaxis(final, 1, -1))


def test_posterior_and_decoded_image():
    ours, weights = both("autoencoder", seed=9)
    theirs = reference_models.autoencoder(weights, ours.config)
    image_BHWC = np.random.default_rng(10).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    posterior = theirs.encode(torch.from_numpy(image_BHWC).permute(0, 3, 1, 2)).latent_dist
    for mine, other in zip(
        ours.encode(jnp.asarray(image_BHWC)), (posterior.mean, posterior.logvar), strict=True
    ):
        assert_close(mine, np.moveaxis(other.numpy(), 1, -1))
    decoded = theirs.decode(posterior.mean).sample.numpy()
    scaled = np.moveaxis(posterior.mean.numpy(), 1, -1) * ours.config.scaling_factor
    assert_close(ours.decode(jnp.asarray(scaled)), np.moveaxis(decoded, 1, -1))
