"""Adapters start without effect, are all that trains, and merge into a plain policy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from wmpo_jax.conversion import to_state_dict
from wmpo_jax.models.vla import VLA, VLAConfig
from wmpo_jax.models.vla.lora import add_lora, merge_lora

CONFIG = VLAConfig.tiny(action_dim=3, chunk=4)
PROMPT = jnp.array([[1, 300, 301, 302]])
forward = nnx.jit(lambda model, *inputs: model(*inputs))


@pytest.fixture(scope="module")
def pixels():
    return jax.random.normal(jax.random.key(1), (1, 32, 32, 6))


def train(policy, pixels, steps=5):
    """Gradient steps on the adapters alone; returns the losses."""
    graphdef, adapters, frozen = nnx.split(policy, nnx.LoRAParam, ...)
    tx = optax.adam(1e-2)

    def loss(adapters):
        logits = nnx.merge(graphdef, adapters, frozen)(pixels, PROMPT)
        return -jax.nn.log_softmax(logits)[..., 7].mean()

    def step(carry, _):
        adapters, state = carry
        value, gradient = jax.value_and_grad(loss)(adapters)
        updates, state = tx.update(gradient, state)
        return (optax.apply_updates(adapters, updates), state), value

    start = adapters, tx.init(adapters)
    (adapters, _), losses = jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps))(start)
    nnx.update(policy, adapters)
    return losses


def test_adapters_train_and_merge(pixels, capsys):
    policy = VLA(CONFIG, rngs=nnx.Rngs(0))
    plain = nnx.state(policy)
    weights = to_state_dict("policy", plain, CONFIG)
    before = forward(policy, pixels, PROMPT)
    add_lora(policy, rank=4, alpha=8.0, rngs=nnx.Rngs(1))
    np.testing.assert_array_equal(forward(policy, pixels, PROMPT), before)
    losses = train(policy, pixels)
    assert losses[-1] < losses[0] - 0.1
    trained = forward(policy, pixels, PROMPT)
    assert np.abs(trained - before).max() > 0.1

    difference = merge_lora(policy, pixels, PROMPT)
    assert difference < 1e-4 * np.abs(trained).max()
    assert f"moved by at most {difference:.3g}" in capsys.readouterr().out
    np.testing.assert_allclose(forward(policy, pixels, PROMPT), trained, atol=difference)

    merged = to_state_dict("policy", nnx.state(policy), CONFIG)
    assert merged.keys() == weights.keys()
    linear = [n for n in weights if n.endswith("weight") and weights[n].ndim == 2]
    embeddings = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")
    for name, array in weights.items():
        changed = bool((merged[name] != array).any())
        assert changed == (name in linear and name not in embeddings), name


def test_every_linear_layer_has_an_adapter():
    policy = VLA(CONFIG, rngs=nnx.Rngs(0))
    add_lora(policy, rank=2, alpha=2.0, rngs=nnx.Rngs(1))
    _, adapters, _ = nnx.split(policy, nnx.LoRAParam, ...)
    paths = {path[:-1] for path, _ in nnx.to_flat_state(adapters)}
    blocks = CONFIG.dino.n_computed_blocks + CONFIG.siglip.n_computed_blocks
    assert len(paths) == 4 * blocks + 3 + 7 * CONFIG.llama.depth
