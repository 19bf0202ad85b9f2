"""Our classifier against transformers' VideoMAEForVideoClassification, layer by layer."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.parity.layers import assert_close, both, recorded
from wmpo_jax.conversion import reference_models


@pytest.mark.parametrize("changes", [{}, {"num_heads": 4, "num_labels": 5, "image_size": 48}])
def test_every_layer(changes):
    ours, weights = both("reward", seed=5, **changes)
    config = ours.config
    theirs = reference_models.videomae(weights, config)
    shape = (2, config.num_frames, config.image_size, config.image_size, 3)
    pixels_BTHWC = np.random.default_rng(6).normal(size=shape).astype(np.float32)
    with recorded([theirs.videomae.embeddings, *theirs.videomae.encoder.layer]) as layers:
        logits = theirs(torch.from_numpy(pixels_BTHWC).permute(0, 1, 4, 2, 3)).logits.numpy()
    tubelets = ours.embed_tubelets(jnp.asarray(pixels_BTHWC))[:, :: config.tubelet_size]
    hidden = ours.add_positions(tubelets)
    assert_close(hidden, layers[0])
    for block, layer in zip(ours.layers, layers[1:], strict=True):
        hidden = block(hidden)
        assert_close(hidden, layer)
    assert_close(ours(jnp.asarray(pixels_BTHWC)), logits)
