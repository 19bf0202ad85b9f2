"""The networks of a full-size config as shapes with shardings."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from wmpo_jax.conversion.load import RewardModel, WorldModel
from wmpo_jax.data.transforms import ImageTransform, ImageTransformConfig
from wmpo_jax.models.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from wmpo_jax.models.stdit import STDiT, STDiTConfig
from wmpo_jax.models.videomae import VideoMAE, VideoMAEConfig
from wmpo_jax.models.vla import VLA, VLAConfig
from wmpo_jax.models.vla.lora import add_lora
from wmpo_jax.runtime import sharding
from wmpo_jax.stages.agents import PolicyFamily
from wmpo_jax.stages.networks import released


class Trained(NamedTuple):
    """A policy: what is trained of it (float32) and what is not (bfloat16, None without LoRA)."""

    family: PolicyFamily
    params: Any
    frozen: Any


def policy(config: ConfigDict, mesh: Mesh) -> Trained:
    """The VLA with all of its weights trained, or with adapters beside frozen ones."""
    vla = vla_config(config).scanned()
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
        transform=ImageTransform(ImageTransformConfig.openvla()),
        prompts_GL=np.ones((1, config.policy.prompt_tokens), np.int32),
        lengths_G=np.full(1, config.policy.prompt_tokens),
        bins=vla.n_action_classes,
    )
    still = sharding.abstract(mesh, in_bfloat16(frozen)) if rank else None
    return Trained(family, sharding.abstract(mesh, params), still)


def vla_config(config: ConfigDict) -> VLAConfig:
    return released(config, "policy")


def world_model_config(config: ConfigDict) -> STDiTConfig:
    return released(config, "world_model")


def reward_config(config: ConfigDict) -> VideoMAEConfig:
    return released(config, "reward")


def autoencoder_config(config: ConfigDict) -> AutoencoderKLConfig:
    return released(config, "autoencoder")


def world_model_params(config: ConfigDict, mesh: Mesh) -> tuple[Any, Any]:
    """Of the network in training: (graphdef, float32 parameters)."""
    return abstract(mesh, lambda: STDiT(world_model_config(config), rngs=nnx.Rngs(0)))


def abstract(mesh: Mesh, build: Callable[[], nnx.Module]) -> tuple[Any, Any]:
    """(graphdef, float32 parameters), split by the sharding table."""
    graphdef, params = nnx.split(nnx.eval_shape(build))
    return graphdef, sharding.abstract(mesh, params)


def frozen_world(config: ConfigDict, mesh: Mesh) -> tuple[WorldModel, RewardModel]:
    """World model and judge as imagination holds them: bfloat16 and whole on every chip.

    Together they are 2.2 GB. Split, they would have to be gathered in each of the 30 denoising
    steps of each chunk.
    """

    def whole(build: Callable[[], nnx.Module]) -> tuple[Any, Any]:
        graphdef, params = nnx.split(nnx.eval_shape(build))
        place = NamedSharding(mesh, PartitionSpec())
        return graphdef, jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16, sharding=place), params
        )

    sizes, judge = world_model_config(config), reward_config(config)
    graphdef, params = whole(lambda: STDiT(sizes, rngs=nnx.Rngs(0)))
    video = whole(lambda: AutoencoderKL(autoencoder_config(config), rngs=nnx.Rngs(0)))
    steps = config.world_model.sampling_steps
    world = WorldModel(params, video[1], graphdef, video[0], sizes.history, steps)
    judge_graph, judge_params = whole(lambda: VideoMAE(judge, rngs=nnx.Rngs(0)))
    section = config.reward
    threshold = 0.5  # any
    return world, RewardModel(
        judge_params, judge_graph, judge.num_frames, threshold, section.min_step
    )


def in_bfloat16(tree: Any) -> Any:
    """Shapes with that dtype."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), tree)
