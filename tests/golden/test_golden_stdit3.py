"""STDiT agrees with the original PyTorch module: outputs, intermediates, gradients, weights."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.golden.loader import golden_files, load
from wmpo_jax.conversion import from_state_dict, to_state_dict
from wmpo_jax.conversion.kinds import KINDS
from wmpo_jax.models.stdit import STDiT, STDiTConfig
from wmpo_jax.models.stdit.blocks import position_embedding

ATOL = 1e-5  # of outputs up to about 1; rounding grows with them


class Golden(NamedTuple):
    tensors: dict[str, np.ndarray]
    metadata: dict[str, Any]
    weights: dict[str, np.ndarray]
    model: STDiT


def read_golden(path) -> Golden:
    tensors, metadata = load(path)
    original = metadata["config"]
    config = STDiTConfig(
        in_channels=original["in_channels"],
        patch=tuple(original["patch_size"][1:]),
        hidden=original["hidden_size"],
        depth=original["depth"],
        heads=original["num_heads"],
        action_dim=original["action_dim"],
        history=metadata["history"],
        chunk=metadata["chunk"],
        mlp_ratio=original["mlp_ratio"],
        pred_sigma=original["pred_sigma"],
        input_square_px=original["input_sq_size"],
    )
    weights = {name: x for name, x in tensors.items() if not name.startswith(("in.", "out."))}
    graphdef, _ = KINDS["world_model"].abstract(config)
    model = nnx.merge(graphdef, from_state_dict("world_model", weights, config))
    return Golden(tensors, metadata, weights, model)


def channels_last(latents_BCTHW: np.ndarray) -> jax.Array:
    return jnp.moveaxis(jnp.asarray(latents_BCTHW), 1, -1)


@pytest.fixture(scope="module", params=golden_files("stdit3"), ids=lambda path: path.stem)
def golden(request) -> Golden:
    return read_golden(request.param)


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def assert_close(found, expected, err_msg=""):
    atol = ATOL * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol, err_msg=err_msg)


def runs(golden: Golden) -> list[tuple[str, str]]:
    """Latent size and mask of every forward pass of the file: its outputs `out.<size>.<mask>`."""
    pairs = [name.split(".")[1:] for name in golden.tensors if name.startswith("out.")]
    pairs = [pair for pair in pairs if len(pair) == 2]
    found = [(s, m) for s, m in pairs if {f"in.{s}.x", f"in.mask.{m}"} <= golden.tensors.keys()]
    assert found
    return found


def arguments(golden: Golden, size: str, mask: str) -> tuple[Any, ...]:
    t = golden.tensors
    pixels = int(t["in.height"][0]), int(t["in.width"][0])
    latents, mask_BT = (
        channels_last(t[f"in.{size}.x"]),
        jnp.asarray(t[f"in.mask.{mask}"]),
    )
    return (
        latents,
        jnp.asarray(t["in.timestep"]),
        jnp.asarray(t["in.action"]),
        mask_BT,
        *pixels,
    )


forward = nnx.jit(STDiT.__call__, static_argnums=(5, 6))
encode_history = nnx.jit(STDiT.encode_history, static_argnums=(2, 3))
denoise = nnx.jit(STDiT.denoise, static_argnums=(5, 6))


def test_golden_stdit3_outputs(golden):
    for size, mask in runs(golden):
        latents, timestep, actions, mask_BT, *pixels = arguments(golden, size, mask)
        out = forward(golden.model, latents, timestep, actions, mask_BT, *pixels)
        expected = channels_last(golden.tensors[f"out.{size}.{mask}"])
        assert_close(out, expected, err_msg=f"{size}.{mask}")


def test_golden_stdit3_cached_history(golden):
    history = golden.model.config.history
    sizes = [size for size, mask in runs(golden) if mask == "hist"]
    assert sizes
    for size in sizes:
        latents, timestep, actions, _, *pixels = arguments(golden, size, "hist")
        cache = encode_history(golden.model, latents[:, :history], *pixels)
        out = denoise(golden.model, latents[:, history:], timestep, actions, cache, *pixels)
        expected = channels_last(golden.tensors[f"out.{size}.hist"])[:, history:]
        assert_close(out, expected, err_msg=size)


def test_golden_stdit3_embeddings(golden):
    model, t = golden.model, golden.tensors
    timestep = jnp.asarray(t["in.timestep"])
    assert_close(model.embed_timestep(timestep), t["out.t_embed"])
    clean = jnp.broadcast_to(model.history_embedding()[0], t["out.t0_embed"].shape)
    assert_close(clean, t["out.t0_embed"])
    actions = model.action_embedder.with_padding(jnp.asarray(t["in.action"]))
    expected = t["out.sq.hist.action_embed"].reshape(actions.shape)
    assert_close(actions, expected)
    pixels = int(t["in.height"][0]), int(t["in.width"][0])
    for name in [name for name in t if name.endswith(".pos_emb")]:
        latents = t[f"in.{name.split('.')[1]}.x"]
        grid = [-(-n // p) for n, p in zip(latents.shape[-2:], model.config.patch, strict=True)]
        positions = position_embedding(model.config, grid[0], grid[1], *pixels)
        assert_close(positions[None], t[name], err_msg=name)


def test_golden_stdit3_first_pair(golden):
    model, t = golden.model, golden.tensors
    latents, timestep, actions, mask_BT, *pixels = arguments(golden, "sq", "hist")
    x_BTSD = model.embed_latents(latents, *pixels)
    expected = t["out.sq.hist.x_embed"].reshape(x_BTSD.shape) + t["out.sq.pos_emb"]
    assert_close(x_BTSD, expected)
    graphdef, stacked = nnx.split(model.pairs)
    pair = nnx.merge(graphdef, jax.tree.map(lambda x: x[0], stacked))
    spatial, temporal = model.modulations(timestep, actions, mask_BT)
    x_BTSD = pair.spatial(x_BTSD, spatial)
    assert_close(x_BTSD, t["out.sq.hist.spatial0"])
    x_BTSD, _ = pair.temporal(x_BTSD, temporal, None)
    assert_close(x_BTSD, t["out.sq.hist.temporal0"])


def test_golden_stdit3_gradients(golden):
    graphdef, params = nnx.split(golden.model)
    latents, timestep, actions, mask_BT, height, width = arguments(golden, "sq", "hist")

    def loss(params, latents, actions):
        model = nnx.merge(graphdef, params)
        return jnp.mean(model(latents, timestep, actions, mask_BT, height, width) ** 2)

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    value, grads = step(params, latents, actions)
    parameters = to_state_dict("world_model", grads[0], golden.model.config)
    ours = dict(parameters)
    ours |= {"in.x": np.moveaxis(grads[1], -1, 1), "in.action": np.asarray(grads[2])}
    np.testing.assert_allclose(value, golden.tensors["out.grad.loss"], rtol=1e-5)
    for name, expected in golden.tensors.items():
        if name.startswith("out.grad.") and name != "out.grad.loss":
            atol = 1e-4 * np.abs(expected).max()
            np.testing.assert_allclose(ours[name[9:]], expected, atol=atol, err_msg=name)
    for name, gradient in parameters.items():
        norm = golden.metadata["grad_norms"][name]
        np.testing.assert_allclose(np.linalg.norm(gradient), norm, rtol=1e-3)


def test_golden_stdit3_weights_round_trip(golden):
    config = golden.model.config
    exported = to_state_dict("world_model", nnx.state(golden.model), config)
    unread = KINDS["world_model"].dead(config).keys()
    assert exported.keys() == golden.weights.keys() - unread
    for name, array in exported.items():
        np.testing.assert_array_equal(array, golden.weights[name], err_msg=name)
