"""Scanned layers are the same network as written-out ones, and parameters go both ways."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from wmpo_jax.models.layers import stack_layers, unstack_layers
from wmpo_jax.models.videomae import VideoMAE, VideoMAEConfig
from wmpo_jax.models.vla import VLA, VLAConfig
from wmpo_jax.models.vla.lora import add_lora

CONFIG = VLAConfig.tiny(action_dim=3, chunk=4)
PROMPT = jnp.array([[1, 300, 301, 302]])


def loss_and_gradient(policy, params):
    graphdef, _ = nnx.split(policy)
    pixels = jax.random.normal(jax.random.key(1), (1, 32, 32, 6))

    def loss(params):
        return -jax.nn.log_softmax(nnx.merge(graphdef, params)(pixels, PROMPT))[..., 7].mean()

    return jax.jit(jax.value_and_grad(loss))(params)


def test_scanned_policy_is_the_same_policy():
    listed = nnx.eval_shape(lambda: VLA(CONFIG, rngs=nnx.Rngs(0)))
    params = jax.jit(lambda: nnx.state(VLA(CONFIG, rngs=nnx.Rngs(0))))()
    scanned = nnx.eval_shape(lambda: VLA(CONFIG.scanned(), rngs=nnx.Rngs(0)))
    stacked = stack_layers(params, "blocks")
    assert jax.tree.structure(stacked) == jax.tree.structure(nnx.state(scanned))

    loss, gradient = loss_and_gradient(listed, params)
    scanned_loss, scanned_gradient = loss_and_gradient(scanned, stacked)
    np.testing.assert_allclose(scanned_loss, loss, rtol=1e-6)
    unstacked = unstack_layers(scanned_gradient, params, "blocks")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), unstacked, gradient)
    back = unstack_layers(stacked, params, "blocks")
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_scanned_classifier_is_the_same_classifier():
    config = VideoMAEConfig.tiny()
    network = VideoMAE(config, rngs=nnx.Rngs(0))
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: VideoMAE(config.scanned(), rngs=nnx.Rngs(0))))
    scanned = nnx.merge(graphdef, stack_layers(nnx.state(network), "layers"))
    windows = jax.random.normal(jax.random.key(1), (2, 4, 32, 32, 3))
    np.testing.assert_allclose(scanned(windows), network(windows), atol=1e-6)


def test_scanned_layers_take_adapters():
    def adapted() -> VLA:
        policy = VLA(CONFIG.scanned(), rngs=nnx.Rngs(0))
        add_lora(policy, rank=2, alpha=2.0, rngs=nnx.Rngs(1))
        return policy

    abstract = nnx.eval_shape(adapted)
    params = jax.jit(lambda: nnx.state(adapted()))()
    adapters = params.llama.blocks.q_proj
    assert adapters.a.shape == (CONFIG.llama.depth, CONFIG.llama.width, 2)
    _, gradient = loss_and_gradient(abstract, params)
    assert (np.abs(gradient.llama.blocks.q_proj.b[...]).max(axis=(1, 2)) > 0).all()
