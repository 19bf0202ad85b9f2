"""Our Llama against transformers' LlamaModel with a full mask, layer by layer in float32."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.conversion import synthetic
from tests.parity.layers import assert_close, both, recorded
from wmpo_jax.conversion import reference_models
from wmpo_jax.models.vla.llama import rotary_angles

LLAMA = synthetic.CONFIGS["policy"].llama


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize(
    "changes", [{}, {"heads": 4, "depth": 3, "rms_norm_eps": 1e-5, "rope_theta": 500.0}]
)
def test_every_layer(changes, padding):
    policy, weights = both("policy", seed=1, llama=dataclasses.replace(LLAMA, **changes))
    ours, config = policy.llama, policy.llama.config
    theirs = reference_models.llama(reference_models.under(weights, "language_model."), config)
    rng = np.random.default_rng(2)
    x_BSD = rng.normal(size=(2, 11, config.width)).astype(np.float32)
    mask_BS = np.arange(11) < np.array([[11], [11 - padding]])
    with recorded(theirs.layers) as layers:
        final = theirs(
            inputs_embeds=torch.from_numpy(x_BSD),
            attention_mask=reference_models.full_mask(torch.from_numpy(mask_BS)),
        ).last_hidden_state.numpy()
    assert len(layers) == config.depth
    positions = jnp.arange(11)[None]
    hidden = jnp.asarray(x_BSD)
    for block, layer in zip(ours.blocks, layers, strict=True):
        hidden = block(hidden, rotary_angles(positions, config), jnp.asarray(mask_BS))
        assert_close(np.asarray(hidden)[mask_BS], layer[mask_BS])
    whole = ours(jnp.asarray(x_BSD), positions, jnp.asarray(mask_BS))
    assert_close(np.asarray(whole)[mask_BS], final[mask_BS])


def test_a_causal_mask_would_show():
    """The mask we hand over reaches transformers' attention: without it the first token differs."""
    policy, weights = both("policy", seed=1)
    theirs = reference_models.llama(
        reference_models.under(weights, "language_model."), policy.llama.config
    )
    x_BSD = torch.randn(1, 6, policy.llama.config.width, generator=torch.manual_seed(0))
    causal = theirs(inputs_embeds=x_BSD).last_hidden_state
    full = theirs(
        inputs_embeds=x_BSD,
        attention_mask=reference_models.full_mask(torch.ones(1, 6, dtype=torch.bool)),
    ).last_hidden_state
    assert (causal - full)[:, 0].abs().max() > 0.1
    assert (causal - full)[:, -1].abs().max() > 1e-3  # through the keys of the earlier ones
