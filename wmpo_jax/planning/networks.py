"""The networks of a full-size config as shapes with shardings."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from wmpo_jax.data.transforms import ImageTransform
from wmpo_jax.models.autoencoder_kl import AutoencoderKL
from wmpo_jax.models.stdit import STDiT
from wmpo_jax.models.videomae import VideoMAE
from wmpo_jax.models.vla import VLA
from wmpo_jax.models.vla.lora import add_lora
from wmpo_jax.planning.collectives import Matrices
from wmpo_jax.runtime import sharding
from wmpo_jax.stages.agents import LatentVideo, PolicyFamily, VideoRewardModel, VideoWorldModel
from wmpo_jax.stages.networks import released, vla_transform

SMALLEST = 16  # rows of what counts as a matrix: tables of a few rows stay whole
STACKS = {"blocks", "pairs"}  # what models call the layers they scan


class Trained(NamedTuple):
    """A policy: what is trained of it (float32) and what is not (bfloat16, None without LoRA)."""

    family: PolicyFamily
    params: Any
    frozen: Any


def policy(config: ConfigDict, mesh: Mesh) -> Trained:
    """The VLA with all of its weights trained, or with adapters beside frozen ones."""
    vla = released(config, "policy").scanned()
    rank = config.policy.lora_rank

    def build() -> VLA:
        network = VLA(vla, rngs=nnx.Rngs(0))
        if rank:
            add_lora(network, rank, config.policy.lora_alpha, rngs=nnx.Rngs(1))
        return network

    shapes = nnx.eval_shape(build)
    graphdef, params, frozen = nnx.split(shapes, nnx.LoRAParam if rank else nnx.Param, ...)
    family = PolicyFamily(
        build=build,
        graphdef=graphdef,
        transform=ImageTransform(vla_transform(config)),
        prompts_GL=np.ones((1, config.policy.prompt_tokens), np.int32),
        lengths_G=np.full(1, config.policy.prompt_tokens),
        bins=vla.n_action_classes,
    )
    still = sharding.abstract(mesh, in_bfloat16(frozen)) if rank else None
    return Trained(family, sharding.abstract(mesh, params), still)


def world_model_params(config: ConfigDict, mesh: Mesh) -> tuple[Any, Any]:
    """Of the network in training: (graphdef, float32 parameters)."""
    return abstract(mesh, lambda: STDiT(released(config, "world_model"), rngs=nnx.Rngs(0)))


def abstract(mesh: Mesh, build: Callable[[], nnx.Module]) -> tuple[Any, Any]:
    """(graphdef, float32 parameters), split by the sharding table."""
    graphdef, params = nnx.split(nnx.eval_shape(build))
    return graphdef, sharding.abstract(mesh, params)


def frozen_world(config: ConfigDict, mesh: Mesh) -> tuple[VideoWorldModel, VideoRewardModel]:
    """World model and reward model as imagination holds them: float32 and whole on every chip.

    Split, they would have to be gathered in each of the 30 denoising steps of each chunk.
    """

    def whole(build: Callable[[], nnx.Module]) -> tuple[Any, Any]:
        graphdef, params = nnx.split(nnx.eval_shape(build))
        place = NamedSharding(mesh, PartitionSpec())
        return graphdef, jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), params
        )

    sizes, reward_model = released(config, "world_model"), released(config, "reward").scanned()
    graphdef, params = whole(lambda: STDiT(sizes, rngs=nnx.Rngs(0)))
    video = whole(lambda: AutoencoderKL(released(config, "autoencoder"), rngs=nnx.Rngs(0)))
    reward_graphdef, reward_params = whole(lambda: VideoMAE(reward_model, rngs=nnx.Rngs(0)))
    section = config.world_model
    world = VideoWorldModel(
        graphdef=graphdef,
        params=params,
        video=LatentVideo(video[1], video[0]),
        history=sizes.history,
        steps=section.sampling_steps,
        image_size=config.image_size,
        prediction=section.prediction,
    )
    return world, VideoRewardModel(reward_params, reward_graphdef, reward_model.num_frames)


def matrices(*params: Any) -> Matrices:
    """Shapes of all matrices in the stacks of scanned layers and outside them."""
    layers: dict[int, set[tuple[int, int]]] = {}
    loose: set[tuple[int, int]] = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        words = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        if leaf.ndim < 2:
            continue
        small, large = sorted(leaf.shape[-2:])
        if STACKS.isdisjoint(words):
            loose.add((small, large))
        elif leaf.ndim == 3 and small >= SMALLEST:
            layers.setdefault(leaf.shape[0], set()).add((small, large))
    return Matrices(layers, loose)


def in_bfloat16(tree: Any) -> Any:
    """Shapes with that dtype."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), tree)
