"""The policy network: shapes, padding, presets, weights, and that it can learn."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from wmpo_jax.conversion.kinds import compute_in
from wmpo_jax.models.vla import VLA, VLAConfig, action_tokens
from wmpo_jax.models.vla.weights import dead_shapes, name_table

CONFIG = VLAConfig.tiny(action_dim=3, chunk=4)
PROMPT = jnp.array([[1, 300, 301, 302, 303]])


@pytest.fixture(scope="module")
def policy():
    return VLA(CONFIG, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def pixels():
    return jax.random.normal(jax.random.key(1), (2, 32, 32, 6))


@jax.jit(static_argnums=0)
def apply(graphdef, params, *inputs):
    return nnx.merge(graphdef, params)(*inputs)


def test_tiny_is_small_and_starts_near_uniform(policy, pixels):
    graphdef, params = nnx.split(policy)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) < 1_000_000
    logits = apply(graphdef, params, pixels, jnp.repeat(PROMPT, 2, axis=0))
    assert logits.shape == (2, 4, 3, CONFIG.n_action_classes)
    assert logits.dtype == jnp.float32
    probs = jax.nn.softmax(logits)
    entropy = -(probs * jnp.log(probs)).sum(-1)
    assert float(entropy.min()) > 0.95 * np.log(CONFIG.n_action_classes)


@pytest.mark.parametrize("filler", [CONFIG.pad_token, 77])
def test_padding_changes_nothing(policy, pixels, filler):
    graphdef, params = nnx.split(policy)
    plain = apply(graphdef, params, pixels[:1], PROMPT)
    longer = jnp.concatenate([PROMPT, jnp.full((1, 3), filler)], axis=1)
    padded = apply(graphdef, params, pixels[:1], longer, jnp.array([PROMPT.shape[1]]))
    np.testing.assert_allclose(plain, padded, atol=1e-5)


def test_every_part_of_the_input_is_seen_by_every_action(policy, pixels):
    """Full attention: pixels of each tower and each word reach the scores of all slots."""
    graphdef, params = nnx.split(policy)
    plain = apply(graphdef, params, pixels[:1], PROMPT)
    for inputs in (
        (pixels[:1].at[..., 0].add(1.0), PROMPT),
        (pixels[:1].at[..., 5].add(1.0), PROMPT),
        (pixels[:1], PROMPT.at[0, 2].set(310)),
    ):
        change_KA = jnp.abs(apply(graphdef, params, *inputs) - plain).max(-1)[0]
        assert float(change_KA.min()) > 1e-5


def test_bfloat16_compute_stays_close(policy, pixels):
    parts = {"dino": CONFIG.dino, "siglip": CONFIG.siglip, "llama": CONFIG.llama}
    half = replace(CONFIG, **{k: replace(v, dtype=jnp.bfloat16) for k, v in parts.items()})
    full_graph, params = nnx.split(policy)
    half_graph, _ = nnx.split(nnx.eval_shape(lambda: VLA(half, rngs=nnx.Rngs(0))))
    args = (params, pixels[:1], PROMPT)
    full, half = apply(full_graph, *args), apply(half_graph, *args)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(full, half, atol=0.1 * float(jnp.abs(full).max()))


def test_it_memorizes_eight_actions(policy):
    keys = jax.random.split(jax.random.key(2))
    pixels = jax.random.normal(keys[0], (8, 32, 32, 6))
    actions = jax.random.uniform(keys[1], (8, 4, 3), minval=-1.0, maxval=1.0)
    targets = action_tokens.soft_targets(actions, 0.7, CONFIG.n_action_classes)
    graphdef, params = nnx.split(policy)
    tx = optax.adam(1e-3)

    def loss(params):
        logits = nnx.merge(graphdef, params)(pixels, jnp.repeat(PROMPT, 8, axis=0))
        return optax.softmax_cross_entropy(logits, targets).mean()

    def step(carry, _):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = tx.update(gradient, state)
        return (jax.tree.map(jnp.add, params, updates), state), value

    _, losses = jax.jit(lambda carry: jax.lax.scan(step, carry, length=40))(
        (params, tx.init(params))
    )
    assert float(losses[0]) > 4.0
    assert float(losses[-1]) < 2.5


def openvla_shapes():
    """The state dict of modeling_prismatic.py (reference at 09f60b7) without its unused weights."""
    shapes = {}
    for tower, width, mlp, blocks in (
        ("featurizer", 1024, 4096, 23),
        ("fused_featurizer", 1152, 4304, 26),
    ):
        prefix = f"vision_backbone.{tower}"
        shapes[f"{prefix}.pos_embed"] = (1, 256, width)
        shapes[f"{prefix}.patch_embed.proj.weight"] = (width, 3, 14, 14)
        shapes[f"{prefix}.patch_embed.proj.bias"] = (width,)
        for i in range(blocks):
            block = f"{prefix}.blocks.{i}"
            for layer, out, into in (
                ("attn.qkv", 3 * width, width),
                ("attn.proj", width, width),
                ("mlp.fc1", mlp, width),
                ("mlp.fc2", width, mlp),
            ):
                shapes[f"{block}.{layer}.weight"] = (out, into)
                shapes[f"{block}.{layer}.bias"] = (out,)
            for part in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
                shapes[f"{block}.{part}"] = (width,)
            if tower == "featurizer":
                shapes[f"{block}.ls1.scale_factor"] = shapes[f"{block}.ls2.scale_factor"] = (width,)
    shapes["vision_backbone.featurizer.cls_token"] = (1, 1, 1024)
    shapes["vision_backbone.featurizer.reg_token"] = (1, 4, 1024)
    for layer, out, into in (("fc1", 8704, 2176), ("fc2", 4096, 8704), ("fc3", 4096, 4096)):
        shapes[f"projector.{layer}.weight"] = (out, into)
        shapes[f"projector.{layer}.bias"] = (out,)
    for i in range(32):
        layer = f"language_model.model.layers.{i}"
        for name in "qkvo":
            shapes[f"{layer}.self_attn.{name}_proj.weight"] = (4096, 4096)
        shapes[f"{layer}.mlp.gate_proj.weight"] = shapes[f"{layer}.mlp.up_proj.weight"] = (
            11008,
            4096,
        )
        shapes[f"{layer}.mlp.down_proj.weight"] = (4096, 11008)
        shapes[f"{layer}.input_layernorm.weight"] = (4096,)
        shapes[f"{layer}.post_attention_layernorm.weight"] = (4096,)
    shapes["language_model.model.norm.weight"] = (4096,)
    shapes["language_model.model.embed_tokens.weight"] = (32064, 4096)
    shapes["language_model.lm_head.weight"] = (32064, 4096)
    return shapes


@pytest.fixture(scope="module")
def openvla():
    """The 7-B policy as shapes: nothing is allocated."""
    return nnx.eval_shape(lambda: VLA(VLAConfig.openvla_7b(), rngs=nnx.Rngs(0)))


def test_openvla_7b_has_the_names_and_shapes_of_the_checkpoint(openvla):
    config = VLAConfig.openvla_7b()
    assert config.action_token_begin == 31_744
    ours = dict(nnx.to_flat_state(nnx.state(openvla)))
    table = name_table(config)
    assert {entry.path for entry in table.values()} == ours.keys()
    shapes = {
        name: entry.layout.theirs(np.broadcast_to(0, ours[entry.path].shape)).shape
        for name, entry in table.items()
    }
    assert shapes == openvla_shapes()
    assert not shapes.keys() & dead_shapes(config).keys()


def test_openvla_7b_gives_a_chunk(openvla):
    graphdef, params = nnx.split(openvla)
    images = jax.ShapeDtypeStruct((2, 224, 224, 6), jnp.float32)
    prompt = jax.ShapeDtypeStruct((2, 18), jnp.int32)
    logits = jax.eval_shape(lambda *args: apply(graphdef, *args), params, images, prompt)
    assert logits.shape == (2, 8, 7, 256)
    assert logits.dtype == jnp.float32


def test_bfloat16_products_have_nearly_the_gradients_of_float32():
    """On a CPU some of their gradients could not be executed: those of the head's rows."""
    pixels = jax.random.normal(jax.random.key(1), (4, 32, 32, 6))
    prompt = jnp.ones((4, 6), jnp.int32)
    gradients = []
    for products in ("float32", "bfloat16"):
        config = compute_in(VLAConfig.tiny(3, 4), jnp.float32, products)
        graphdef, params = nnx.split(VLA(config, rngs=nnx.Rngs(0)))

        def loss(params, graphdef=graphdef):
            logits = nnx.merge(graphdef, params)(pixels, prompt)
            return -jax.nn.log_softmax(logits)[..., 0].mean()

        gradients.append(
            jnp.concatenate([g.ravel() for g in jax.tree.leaves(jax.jit(jax.grad(loss))(params))])
        )
    exact, rounded = gradients
    assert jnp.linalg.norm(rounded - exact) < 0.03 * jnp.linalg.norm(exact)
