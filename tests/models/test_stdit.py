"""STDiT's own promises: an exact history cache, released sizes, helpful errors, bf16 rounding."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wmpo_jax.models.stdit import STDiT, STDiTConfig
from wmpo_jax.models.stdit.attention import rotary_table
from wmpo_jax.models.stdit.blocks import timestep_features
from wmpo_jax.models.stdit.weights import key_table

SMALL = dataclasses.replace(
    STDiTConfig.tiny(action_dim=3, chunk=3, history=2), hidden=32, depth=2, heads=2
)
PIXELS = (32, 32)
forward = nnx.jit(STDiT.__call__, static_argnums=(5, 6))
encode_history = nnx.jit(STDiT.encode_history, static_argnums=(2, 3))
denoise = nnx.jit(STDiT.denoise, static_argnums=(5, 6))


@functools.cache
def initialize(config: STDiTConfig) -> tuple[nnx.GraphDef, nnx.State]:
    return nnx.split(nnx.jit(lambda: STDiT(config, rngs=nnx.Rngs(0)))())


def build(config: STDiTConfig) -> STDiT:
    return nnx.merge(*initialize(config), copy=True)


def awake(config: STDiTConfig) -> STDiT:
    """A model whose zero-initialized projections are random too."""
    model = build(config)
    rng = np.random.default_rng(1)
    state = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree.map(lambda x: x + 0.05 * rng.normal(size=x.shape), state))
    return model


def inputs(config: STDiTConfig) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    keys = jax.random.split(jax.random.key(2), 2)
    latents = jax.random.normal(keys[0], (2, config.frames, 4, 4, config.in_channels))
    actions = jax.random.uniform(keys[1], (2, config.chunk, config.action_dim), minval=-1)
    mask_BT = jnp.broadcast_to(jnp.arange(config.frames) >= config.history, latents.shape[:2])
    return latents, jnp.array([300.0, 990.0]), actions, mask_BT


@pytest.mark.parametrize(("scan_layers", "patch"), [(False, (2, 2)), (True, (1, 1))])
def test_cached_history_equals_full_forward(scan_layers, patch):
    model = awake(dataclasses.replace(SMALL, scan_layers=scan_layers, patch=patch))
    latents, timestep, actions, mask_BT = inputs(SMALL)
    full = forward(model, latents, timestep, actions, mask_BT, *PIXELS)
    cache = encode_history(model, latents[:, : SMALL.history], *PIXELS)
    chunk = denoise(model, latents[:, SMALL.history :], timestep, actions, cache, *PIXELS)
    np.testing.assert_allclose(chunk, full[:, SMALL.history :], atol=1e-5)


def test_scanned_layers_give_the_same_gradients():
    latents, timestep, actions, mask_BT = inputs(SMALL)
    gradients = []
    for scan_layers in (False, True):
        model = awake(dataclasses.replace(SMALL, scan_layers=scan_layers))
        graphdef, params = nnx.split(model)

        def loss(params, graphdef=graphdef):
            out = nnx.merge(graphdef, params)(latents, timestep, actions, mask_BT, *PIXELS)
            return jnp.mean(jnp.square(out))

        gradients.append(nnx.to_pure_dict(jax.jit(jax.grad(loss))(params)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *gradients)


def test_future_actions_and_frames_change_nothing_before_them():
    model = awake(SMALL)
    latents, timestep, actions, mask_BT = inputs(SMALL)
    before = forward(model, latents, timestep, actions, mask_BT, *PIXELS)
    latents, actions = latents.at[:, -1].add(1.0), actions.at[:, -1].add(1.0)
    after = forward(model, latents, timestep, actions, mask_BT, *PIXELS)
    np.testing.assert_array_equal(after[:, :-1], before[:, :-1])
    assert np.abs(after[:, -1] - before[:, -1]).max() > 1e-3


def test_temporal_blocks_start_without_effect_of_other_frames():
    model = build(SMALL)
    latents, timestep, actions, mask_BT = inputs(SMALL)
    before = forward(model, latents, timestep, actions, mask_BT, *PIXELS)
    after = forward(model, latents.at[:, 0].add(1.0), timestep, actions, mask_BT, *PIXELS)
    np.testing.assert_array_equal(after[:, 1:], before[:, 1:])


def test_key_table_names_every_parameter_once():
    params = nnx.to_flat_state(nnx.state(build(SMALL), nnx.Param))
    table = key_table(SMALL)
    assert {entry.path for entry in table} == {path for path, _ in params}
    assert len({entry.name for entry in table}) == len(table)


def test_bfloat16_rounds_what_the_released_model_rounds():
    config = dataclasses.replace(SMALL, dtype=jnp.bfloat16, hidden=144, depth=1)
    # The reference rounds times to bfloat16 (stdit3.py:416 at 09f60b7): of the thirty sampler times
    # the network sees 968 for 966.67 and 66.5 for 66.67.
    times = jnp.array([966.6667, 66.66667])
    rounded = timestep_features(jnp.array([968.0, 66.5]), jnp.float32).astype(jnp.bfloat16)
    np.testing.assert_array_equal(timestep_features(times, jnp.bfloat16), rounded)
    cos, sin = rotary_table(config, 2, 3)
    assert cos.shape == sin.shape == (3, 1, 1, 36) and cos.dtype == jnp.bfloat16
    out = forward(build(config), *inputs(config), *PIXELS)
    assert out.dtype == jnp.float32 and bool(jnp.isfinite(out).all())
