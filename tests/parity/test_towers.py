"""Our vision towers against transformers' DINOv2 with registers and SigLIP, layer by layer."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.conversion import synthetic
from tests.parity.layers import assert_close, both, recorded
from wmpo_jax.conversion import reference_models

POLICY = synthetic.CONFIGS["policy"]


@pytest.mark.parametrize(
    "changes", [{}, {"depth": 4, "image_size": 56, "heads": 4}], ids=["small", "larger"]
)
@pytest.mark.parametrize("tower", ["dino", "siglip"])
def test_every_block(tower, changes):
    sizes = {name: dataclasses.replace(getattr(POLICY, name), **changes) for name in (tower,)}
    policy, weights = both("policy", seed=3, **sizes)
    ours = getattr(policy, tower)
    prefix, build = {
        "dino": ("featurizer", reference_models.dinov2),
        "siglip": ("fused_featurizer", reference_models.siglip),
    }[tower]
    theirs = build(reference_models.under(weights, f"vision_backbone.{prefix}."), ours.config)
    size = ours.config.image_size
    image_BHWC = np.random.default_rng(4).normal(size=(2, size, size, 3)).astype(np.float32)
    blocks = theirs.encoder.layer if tower == "dino" else theirs.encoder.layers
    with recorded([theirs.embeddings, *blocks]) as layers:
        final = theirs(torch.from_numpy(image_BHWC).permute(0, 3, 1, 2)).last_hidden_state.numpy()
    hidden = jnp.asarray(layers[0])
    patches = ours.patch_embed(jnp.asarray(image_BHWC)) + ours.pos_embed[...]
    assert_close(patches, layers[0][:, ours.config.n_prefix :])
    for block, layer in zip(ours.blocks, layers[1:], strict=True):
        hidden = block(hidden)
        assert_close(hidden, layer)
    assert_close(ours(jnp.asarray(image_BHWC)), final[:, ours.config.n_prefix :])
