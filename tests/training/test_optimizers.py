"""Muon is optax's, over stacked layers too."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from wmpo_jax.training import optimizers


def test_stacked_layers_are_orthogonalized_one_by_one():
    kernels = jax.random.normal(jax.random.key(0), (3, 8, 16))
    grads = {"pairs": jax.random.normal(jax.random.key(1), (3, 8, 16)) * 1e-3}
    together = optimizers.muon(0.1, 100, stacked="pairs")
    params = {"pairs": kernels}
    stacked, _ = together.update(grads, together.init(params), params)
    alone = optimizers.muon(0.1, 100, stacked="nothing")
    for layer in range(3):
        params, grad = {"w": kernels[layer]}, {"w": grads["pairs"][layer]}
        update, _ = alone.update(grad, alone.init(params), params)
        np.testing.assert_allclose(stacked["pairs"][layer], update["w"], atol=1e-5)


def test_a_matrix_moves_equally_in_all_directions():
    params = {"w": jnp.zeros((8, 8))}
    grads = {"w": jnp.diag(jnp.array([1.0, 0.5, 0.4, 0.3, 0.3, 0.3, 0.2, 0.2]))}
    optimizer = optimizers.muon(0.1, 100, stacked="nothing")
    update, _ = optimizer.update(grads, optimizer.init(params), params)
    singular = np.linalg.svd(update["w"], compute_uv=False)
    assert singular.min() > 0.5 * singular.max()


def test_biases_of_stacked_layers_are_left_to_adam():
    params = {"pairs": jnp.zeros((3, 5))}
    grads = {"pairs": jnp.arange(1.0, 16.0).reshape(3, 5)}
    optimizer = optimizers.muon(0.1, 100, stacked="pairs")
    update, _ = optimizer.update(grads, optimizer.init(params), params)
    assert (update["pairs"] < 0).all()
    np.testing.assert_allclose(update["pairs"], update["pairs"][0, 0], rtol=1e-4)  # sign, not size


@pytest.mark.parametrize(("products", "bound"), [("float32", 1e-4), ("bfloat16", 5e-2)])
def test_muon_is_that_of_optax(products, bound):
    shapes = {"wide": (8, 24), "tall": (24, 8), "bias": (8,)}
    params = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    ours = optimizers.muon(0.1, 100, "nothing", products)
    schedule = optax.warmup_cosine_decay_schedule(0.01, 0.1, 25, 100, 0.01)
    theirs: Any = optax.chain(
        optax.clip_by_global_norm(1.0), optax.contrib.muon(schedule, consistent_rms=0.2)
    )
    states = ours.init(params), theirs.init(params)
    for step in range(3):
        keys = jax.random.split(jax.random.key(step), len(shapes))
        grads = {
            name: jax.random.normal(key, shape)
            for key, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
        update, our_state = ours.update(grads, states[0], params)
        expected, their_state = theirs.update(grads, states[1], params)
        states = our_state, their_state
        for name in shapes:
            error = jnp.linalg.norm(update[name] - expected[name])
            assert error < bound * jnp.linalg.norm(expected[name])


def test_layers_that_are_written_out_are_matrices_too():
    params = {"blocks": {0: {"kernel": jnp.zeros((8, 8))}}}
    grads = {"blocks": {0: {"kernel": jnp.diag(jnp.arange(1.0, 9.0))}}}
    optimizer = optimizers.muon(0.1, 100, stacked="blocks")
    update, _ = optimizer.update(grads, optimizer.init(params), params)
    singular = np.linalg.svd(update["blocks"][0]["kernel"], compute_uv=False)
    assert singular.min() > 0.5 * singular.max()
