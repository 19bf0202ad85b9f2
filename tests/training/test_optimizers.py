"""Muon over stacked layers is Muon over each of them."""

import jax
import jax.numpy as jnp
import numpy as np

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
