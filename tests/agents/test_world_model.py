"""The loss of a world model that is trained where it is sampled."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wmpo_jax.agents.world_model import FlowConfig, chunk_noise, flow_loss, predict_chunk
from wmpo_jax.models.stdit import STDiT, STDiTConfig

SIZES = dataclasses.replace(
    STDiTConfig.tiny(action_dim=4, chunk=2, history=1), hidden=16, depth=1, heads=2
)


@pytest.fixture(scope="module")
def network() -> STDiT:
    return STDiT(SIZES, rngs=nnx.Rngs(0))


def test_a_regression_is_trained_on_the_very_step_that_is_sampled(network):
    config = FlowConfig(
        image_size=32,
        prediction="residual",
        sampling_steps=1,
        history_noise=0.0,
        start_spread=0.0,
        train_times="sampled",
    )
    latents = jax.random.normal(jax.random.key(0), (3, 3, 4, 4, 4))
    actions = jax.random.normal(jax.random.key(1), (3, 2, 2))
    history, chunk = latents[:, :1], latents[:, 1:]
    loss = flow_loss(network, config, history, chunk, actions, jax.random.key(2))
    noise = chunk_noise(jax.random.key(3), history, 2)  # of no effect
    predicted = predict_chunk(network, config, history, actions, noise, steps=1)
    np.testing.assert_allclose(loss, jnp.square(predicted - chunk).mean(), rtol=1e-5)
