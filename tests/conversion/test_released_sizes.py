"""The released checkpoints' names, shapes and counts; only shapes are made, which costs no memory.

Reference at 09f60b7: verl/utils/vla_utils/openvla_oft/modeling_prismatic.py,
dependencies/opensora/opensora/models/{stdit/stdit3.py,vae/vae.py} and
verl/workers/fsdp_workers.py:537.
"""

import dataclasses

import numpy as np
import pytest
from flax import nnx

from tests.models.test_vla import openvla_shapes
from wmpo_jax.conversion.kinds import KINDS, compute_in
from wmpo_jax.models.autoencoder_kl import AutoencoderKLConfig
from wmpo_jax.models.stdit import STDiTConfig
from wmpo_jax.models.stdit.weights import unused_shapes
from wmpo_jax.models.videomae import VideoMAEConfig
from wmpo_jax.models.vla import VLAConfig

RELEASED = {
    "policy": VLAConfig.openvla_7b(np.float32),
    "world_model": compute_in(STDiTConfig.xl_2(), np.float32),
    "autoencoder": compute_in(AutoencoderKLConfig.sdxl(), np.float32),
    "reward": dataclasses.replace(VideoMAEConfig.base(), head="sigmoid"),
}


def count(shapes) -> int:
    return sum(int(np.prod(shape)) for shape in shapes.values())


def linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def dead_openvla_shapes() -> dict[str, tuple[int, ...]]:
    """No output depends on them: last blocks, final norms, SigLIP's attention pool."""
    shapes: dict[str, tuple[int, ...]] = {}
    for tower, block, width, mlp in (
        ("featurizer", 23, 1024, 4096),
        ("fused_featurizer", 26, 1152, 4304),
    ):
        prefix = f"vision_backbone.{tower}"
        name = f"{prefix}.blocks.{block}"
        shapes |= norm(f"{prefix}.norm", width)
        shapes |= norm(f"{name}.norm1", width) | norm(f"{name}.norm2", width)
        shapes |= linear(f"{name}.attn.qkv", 3 * width, width)
        shapes |= linear(f"{name}.attn.proj", width, width)
        shapes |= linear(f"{name}.mlp.fc1", mlp, width) | linear(f"{name}.mlp.fc2", width, mlp)
    dino = "vision_backbone.featurizer.blocks.23"
    shapes |= {f"{dino}.ls1.scale_factor": (1024,), f"{dino}.ls2.scale_factor": (1024,)}
    pool = "vision_backbone.fused_featurizer.attn_pool"
    shapes |= {f"{pool}.latent": (1, 1, 1152)} | norm(f"{pool}.norm", 1152)
    shapes |= linear(f"{pool}.q", 1152, 1152) | linear(f"{pool}.kv", 2304, 1152)
    shapes |= linear(f"{pool}.proj", 1152, 1152)
    return shapes | linear(f"{pool}.mlp.fc1", 4304, 1152) | linear(f"{pool}.mlp.fc2", 1152, 4304)


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_maps_both_ways(kind):
    """Names and parameters pair off, and each name's shape comes out of our parameter's shape."""
    config = RELEASED[kind]
    entries = KINDS[kind].entries(config)
    _, variables = KINDS[kind].abstract(config)
    shapes = KINDS[kind].shapes(config)
    assert len({entry.name for entry in entries}) == len(entries) == len(shapes)
    assert {entry.path for entry in entries} == variables.keys()
    for entry in entries:
        theirs = np.broadcast_to(np.float32(0), shapes[entry.name])
        ours = variables[entry.path].shape[entry.index is not None :]
        assert entry.ours(theirs).shape == ours
    assert count(shapes) == sum(int(np.prod(v.shape)) for v in variables.values())


@pytest.mark.parametrize("kind", KINDS)
def test_released_shapes_determine_the_released_config(kind):
    config = RELEASED[kind]
    shapes = KINDS[kind].shapes(config) | {n: s for n, s in KINDS[kind].dead(config).items() if s}
    assert KINDS[kind].config(shapes, {}) == config


def test_policy_has_7_541_billion_parameters():
    config = RELEASED["policy"]
    live, dead = KINDS["policy"].shapes(config), KINDS["policy"].dead(config)
    assert live == openvla_shapes()
    assert dead == dead_openvla_shapes()
    every = live | dead_openvla_shapes()
    assert round(count(every) / 1e9, 3) == 7.541
    groups = {
        "language_model.": 6.739e9,
        "projector.": 71.4e6,
        "vision_backbone.featurizer.": 303e6,
        "vision_backbone.fused_featurizer.": 427e6,  # 412 M and 15.2 M of the unused pool
    }
    for prefix, size in groups.items():
        group = {name: shape for name, shape in every.items() if name.startswith(prefix)}
        assert abs(count(group) / size - 1) < 2e-3


def test_world_model_has_1_212_991_556_parameters():
    config = RELEASED["world_model"]
    live = KINDS["world_model"].shapes(config)
    dead = KINDS["world_model"].dead(config).keys()
    unused = unused_shapes(config) | {"rope.freqs": (36,)}
    assert dead == unused.keys()
    # The caption table is a buffer, not a parameter.
    parameters = live | unused
    del parameters["y_embedder.y_embedding"]
    assert count(parameters) == 1_212_991_556
    assert round(count(live) / 1e6, 1) == 907.8
    for block in ("spatial_blocks", "temporal_blocks"):
        assert live[f"{block}.27.scale_shift_table"] == (6, 1152)
        assert live[f"{block}.0.attn.qkv.weight"] == (3456, 1152)
        assert live[f"{block}.5.mlp.fc1.weight"] == (4608, 1152)
        assert unused[f"{block}.9.cross_attn.kv_linear.weight"] == (2304, 1152)
    assert live["final_layer.linear.weight"] == (32, 1152)
    assert live["action_embedder.fc.0.weight"] == (4608, 7)


def test_autoencoder_and_classifier_have_the_released_counts():
    assert count(KINDS["autoencoder"].shapes(RELEASED["autoencoder"])) == 83_653_863
    reward = KINDS["reward"].shapes(RELEASED["reward"])
    assert reward["videomae.embeddings.patch_embeddings.projection.weight"] == (768, 3, 2, 16, 16)
    assert reward["videomae.encoder.layer.11.attention.attention.q_bias"] == (768,)
    assert reward["classifier.weight"] == (2, 768)
    assert count(reward) == 86_228_738


def test_nothing_of_the_full_size_is_allocated():
    graphdef, variables = KINDS["policy"].abstract(RELEASED["policy"])
    assert isinstance(graphdef, nnx.GraphDef)
    assert all(type(v.get_value()).__name__ == "ShapeDtypeStruct" for v in variables.values())
