"""The sampler, the loss and the timestep transform agree with the original RFLOW scheduler."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.golden.loader import golden_files, load
from tests.golden.test_golden_stdit3 import Golden, channels_last, read_golden
from wmpo_jax.agents import world_model
from wmpo_jax.agents.world_model import FlowConfig
from wmpo_jax.algorithm import flow
from wmpo_jax.conversion import to_state_dict


@pytest.fixture(scope="module", params=golden_files("rflow"), ids=lambda path: path.stem)
def golden(request) -> Golden:
    """The tensors are the scheduler's, the model is that of the stdit3 file of the same suffix."""
    path: Path = request.param
    stdit = read_golden(path.with_name(path.name.replace("rflow_", "stdit3_", 1)))
    tensors, metadata = load(path)
    return stdit._replace(tensors=tensors, metadata=metadata)


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


def runs(golden: Golden) -> list[tuple[str, int, int]]:
    """Name, image size and steps of every sampler run."""
    pattern = re.compile(r"out\.(r(\d+)\.steps(\d+))\.z$")
    found = [match.groups() for name in golden.tensors if (match := pattern.match(name))]
    assert found
    return [(name, int(size), int(steps)) for name, size, steps in found]


def test_golden_rflow_timesteps(golden):
    for name, size, steps in runs(golden):
        ratio = flow.transform_ratio(size, size, golden.metadata["num_frames"])
        times = flow.euler_timesteps(steps, ratio)
        expected = golden.tensors[f"out.{name}.timesteps"]
        np.testing.assert_allclose(expected, np.tile(times[:, None], expected.shape[1]), atol=1e-3)


def test_golden_rflow_samples(golden):
    """The cached history gives the chunk of the original's whole windows."""
    graphdef, params = nnx.split(golden.model)
    t, history = golden.tensors, golden.model.config.history
    z, actions = channels_last(t["in.z"]), jnp.asarray(t["in.action"])
    past, noise = z[:, :history], z[:, history:]

    def sample(params, size, steps):
        """Also the first Euler step alone: two times are its start and its end."""
        model, config = nnx.merge(graphdef, params), FlowConfig(size)
        ratio = flow.transform_ratio(size, size, golden.metadata["num_frames"])
        velocity = world_model.chunk_velocity(model, config, past, actions)
        start, end = flow.euler_timesteps(steps, ratio)[:2]
        first = noise + velocity(noise, jnp.full(len(z), start)) * (start - end) / 1000.0
        return first, world_model.predict_chunk(model, config, past, actions, noise, steps)

    for name, size, steps in runs(golden):
        first, last = jax.jit(sample, static_argnums=(1, 2))(params, size, steps)
        expected = channels_last(t[f"out.{name}.z"])
        np.testing.assert_allclose(last, expected[:, history:], atol=5e-5, err_msg=name)
        np.testing.assert_array_equal(past, expected[:, :history])
        if f"out.{name}.z_after_1" in t:
            expected = channels_last(t[f"out.{name}.z_after_1"])[:, history:]
            np.testing.assert_allclose(first, expected, atol=5e-5, err_msg=name)


def test_golden_rflow_training(golden):
    graphdef, params = nnx.split(golden.model)
    t = golden.tensors
    x0, noise = channels_last(t["in.train.x_start"]), channels_last(t["in.train.noise"])
    t_B, mask_BT = jnp.asarray(t["in.train.t"]), jnp.asarray(t["in.train.mask"])
    plain = flow.add_noise(x0, noise, t_B)
    np.testing.assert_allclose(plain, channels_last(t["out.add_noise"]), atol=1e-5)

    def loss(params, mask_BT):
        model, actions = nnx.merge(graphdef, params), jnp.asarray(t["in.action"])
        loss_B = world_model.window_loss(model, FlowConfig(256), x0, actions, noise, t_B, mask_BT)
        return jnp.mean(loss_B), loss_B

    (_, loss_B), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, mask_BT)
    np.testing.assert_allclose(loss_B, t["out.train.loss"], rtol=1e-5)
    ours = to_state_dict("world_model", grads, golden.model.config)
    names = [name for name in t if name.startswith("out.train.grad.")]
    assert names
    for name in names:
        atol = 1e-4 * np.abs(t[name]).max()
        np.testing.assert_allclose(ours[name[15:]], t[name], atol=atol, err_msg=name)
    _, all_B = jax.jit(loss)(params, jnp.ones_like(mask_BT))
    np.testing.assert_allclose(all_B, t["out.train.loss_mask_none_xmask_all"], rtol=1e-5)


def test_golden_rflow_transform(golden):
    t = golden.tensors

    def table(rows, scale):
        ratios = [flow.transform_ratio(h, w, n, scale) for h, w, n in rows.tolist()]
        return [flow.shift_timesteps(jnp.asarray(t["in.tt.t"]), r) for r in ratios]

    grid = t["in.tt.height_width_frames"]
    np.testing.assert_allclose(table(grid, 1.0), t["out.tt"], atol=1e-3)
    for name in [name for name in t if name.startswith("out.tt_scale")]:
        scale = float(name.removeprefix("out.tt_scale").replace("p", "."))
        candidates = np.asarray(table(grid, scale))
        # The file does not say which rows of the grid these are.
        assert all(np.abs(candidates - row).max(axis=1).min() < 1e-3 for row in t[name])
