"""The sharding table: roles by name, axes that do not divide, one device."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from wmpo_jax.models.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from wmpo_jax.models.stdit import STDiT, STDiTConfig
from wmpo_jax.models.videomae import VideoMAE, VideoMAEConfig
from wmpo_jax.models.vla import VLA, VLAConfig
from wmpo_jax.runtime import sharding
from wmpo_jax.runtime.mesh import AXES

ROOT = Path(__file__).parents[2]
PROGRAMS = ("sft", "autoencoder", "world_model", "reward", "update", "tokens", "frames")
MESHES = ("8x1x1", "2x2x2", "1x4x2")


def mesh_of(*sizes: int) -> AbstractMesh:
    return AbstractMesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3)


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("llama/blocks/q_proj/kernel", (32, 4096, 4096), P(None, "fsdp", "tensor")),
        ("llama/blocks/3/down_proj/kernel", (11008, 4096), P("tensor", "fsdp")),
        ("layers/0/attention/value/kernel/value", (768, 768), P("fsdp", "tensor")),
        ("0/mu/llama/blocks/3/down_proj/kernel/value", (11008, 4096), P("tensor", "fsdp")),
        ("params/pairs/spatial/mlp/fc1/kernel/value/7", (1152, 4608), P("fsdp", "tensor")),
        ("siglip/blocks/qkv/kernel", (26, 1152, 3456), P(None, "fsdp", None)),
        ("llama/blocks/q_proj/linear/kernel", (32, 4096, 4096), P(None, "fsdp", "tensor")),
        ("llama/blocks/q_proj/a", (32, 4096, 32), P(None, "fsdp", None)),
        ("llama/lm_head", (32064, 4096), P(None, "fsdp")),
        ("llama/norm/scale", (4096,), P()),
        ("encoder/conv_in/kernel", (3, 3, 8, 128), P(None, None, "fsdp", "tensor")),
    ],
)
def test_roles(path: str, shape: tuple[int, ...], expected: P) -> None:
    assert sharding.spec(path, shape, mesh_of(1, 8, 2)) == expected


@pytest.mark.parametrize(
    "build",
    [
        lambda: VLA(VLAConfig.openvla_7b().scanned(), rngs=nnx.Rngs(0)),
        lambda: STDiT(STDiTConfig.xl_2(), rngs=nnx.Rngs(0)),
        lambda: AutoencoderKL(AutoencoderKLConfig.sdxl(), rngs=nnx.Rngs(0)),
        lambda: VideoMAE(VideoMAEConfig.base(), rngs=nnx.Rngs(0)),
    ],
    ids=["policy", "world model", "autoencoder", "reward"],
)
def test_released_networks_are_split(build: Callable[[], nnx.Module]) -> None:
    """No chip of eight holds much more than an eighth of the parameters."""
    params = nnx.state(nnx.eval_shape(build))
    places = sharding.shardings(mesh_of(1, 8, 1), params)
    sizes = jax.tree.map(
        lambda leaf, place: math.prod(place.shard_shape(leaf.shape)), params, places
    )
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert sum(jax.tree.leaves(sizes)) < 1.05 * total / 8


def test_an_axis_that_does_not_divide_moves_or_is_left_out() -> None:
    mesh = mesh_of(1, 64, 1)
    assert sharding.spec("dino/patch_embed/kernel", (14, 14, 3, 1024), mesh) == P(
        None, None, None, "fsdp"
    )
    assert sharding.spec("classifier/kernel", (30, 2), mesh) == P(None, None)


def test_one_device_is_whole() -> None:
    assert sharding.spec("fc1/kernel", (8, 8), mesh_of(1, 1, 1)) == P(None, None)
    x = jnp.ones((3, 2))
    assert sharding.spread_batch(x) is x
    assert jax.jit(sharding.spread_batch)(x).shape == (3, 2)


@pytest.fixture(scope="session")
def differences(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Every program on the meshes, against one device."""
    path = tmp_path_factory.mktemp("sharded") / "result.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.stages.sharded_programs", str(path), *MESHES],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_agrees_with_one_device(differences: dict[str, float], program: str, mesh: str) -> None:
    # Tokens are integers: the same key must give the very same ones.
    # Frames are uint8: rounding puts a few pixels in ten thousand on the neighboring level.
    # The autoencoder's gradients go through more sums over pixels than those of the others.
    bound = {"tokens": 0.0, "frames": 3e-4, "autoencoder": 3e-5}.get(program, 1e-5)
    assert differences[f"{program} {mesh}"] <= bound
