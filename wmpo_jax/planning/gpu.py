"""Temporary memory of the programs by rule of thumb, for chips whose compiler is not here (GPUs).

Arguments are exact without it. What a program needs beside them is taken to be: gradients, what the
scan over layers keeps for the backward pass, and one layer at work; for imagination the cached
history and one denoising step at work.
"""

import math
from typing import NamedTuple

from jax.sharding import Mesh
from ml_collections import ConfigDict

from wmpo_jax.agents.autoencoder import MICRO_BATCH_PIXELS
from wmpo_jax.agents.policy import trained_of
from wmpo_jax.assembly import agents
from wmpo_jax.assembly.networks import released
from wmpo_jax.planning import networks
from wmpo_jax.planning.programs import chip_bytes
from wmpo_jax.planning.task import planned_task
from wmpo_jax.runtime import sharding
from wmpo_jax.training.state import abstract

HALF, SINGLE = 2, 4  # bytes of bfloat16 and float32


class Pass(NamedTuple):
    """Rows that go through a stack of transformer layers at once, on one chip."""

    rows: int
    tokens: int
    width: int
    wide: int
    depth: int
    heads: int

    @property
    def kept(self) -> int:
        """Bytes of the inputs of all layers, which rematerialization keeps."""
        return self.depth * self.rows * self.tokens * self.width * HALF

    @property
    def working(self) -> int:
        """Bytes of one layer's activations, scores and gathered weights, backward pass included."""
        activations = self.rows * self.tokens * (8 * self.width + 4 * self.wide) * HALF
        scores = 2 * self.rows * self.heads * self.tokens**2 * SINGLE
        weights = 2 * (4 * self.width**2 + 3 * self.width * self.wide) * HALF
        return activations + scores + weights


def temporaries(phase: str, config: ConfigDict, mesh: Mesh) -> int:
    """Bytes on one chip beside the arguments of `programs.program(phase, ...)`."""
    parts = sharding.batch_parts(mesh)
    section, task = config.improve, planned_task(config)
    chunks = task.horizon // task.chunk
    if phase == "sft":
        rows = math.ceil(config.sft.batch_size / parts)
        return _gradients(config, mesh) + _policy(config, rows).kept + _policy(config, rows).working
    if phase == "update":
        rows = math.ceil(section.minibatch * (section.micro_chunks or chunks) / parts)
        work = _policy(config, rows)
        side = config.image_size
        frames = section.minibatch * chunks * side * side * 3  # gathered by episode
        return 2 * _gradients(config, mesh) + work.kept + work.working + 2 * frames
    if phase == "world_model":
        sizes = released(config, "world_model")
        rows = math.ceil(config.world_model.batch_size / parts) * sizes.frames
        work = _world(config, rows)
        training = 2 * work.kept + 2 * work.working
        return _world_gradients(config, mesh) + max(training, _autoencoder(config, parts))
    if phase == "reward":
        return 12 * _reward_model(config, math.ceil(config.reward.batch_size / parts)).working
    episodes = math.ceil(section.groups * section.group_size / parts)
    sizes = released(config, "world_model")
    reward_model = _reward_model(config, math.ceil(128 / parts)).working
    video = episodes * (sizes.chunk + 8) * config.image_size**2 * 3
    preprocessed = 2 * video * SINGLE
    if phase == "score":
        return reward_model + preprocessed
    world = _world(config, episodes * sizes.chunk)
    cache = 2 * sizes.depth * episodes * sizes.history * world.tokens * sizes.hidden * HALF
    videos = 2 * episodes * (task.horizon + 1) * config.image_size**2 * 3
    decoder = _autoencoder(config, parts)
    policy = _policy(config, episodes).working
    return cache + videos + max(world.working, decoder, policy, reward_model + preprocessed)


def _autoencoder(config: ConfigDict, parts: int) -> int:
    """Bytes of the frames that are encoded or decoded at once, at the widest layers."""
    frames = max(1, MICRO_BATCH_PIXELS // config.image_size**2 // parts)
    return frames * config.image_size**2 * 256 * SINGLE * 3


def _policy(config: ConfigDict, rows: int) -> Pass:
    sizes = released(config, "policy")
    llama = sizes.llama
    tokens = (
        sizes.dino.n_patches
        + agents.policy(config, planned_task(config)).prompts_GL.shape[1]
        + sizes.chunk * sizes.action_dim
    )
    return Pass(rows, tokens + 1, llama.width, llama.mlp_width, llama.depth, llama.heads)


def _world(config: ConfigDict, frames: int) -> Pass:
    sizes = released(config, "world_model")
    side = config.image_size // released(config, "autoencoder").downsampling // sizes.patch[0]
    wide = int(sizes.hidden * sizes.mlp_ratio)
    return Pass(frames, side**2, sizes.hidden, wide, sizes.depth, sizes.heads)


def _reward_model(config: ConfigDict, rows: int) -> Pass:
    sizes = released(config, "reward")
    tokens = sizes.num_tubelets * sizes.num_patches
    return Pass(rows, tokens, sizes.hidden_size, sizes.mlp_size, 1, sizes.num_heads)


def _gradients(config: ConfigDict, mesh: Mesh) -> int:
    policy = agents.policy(config, planned_task(config))
    return chip_bytes(trained_of(networks.policy_params(config, mesh, policy)))


def _world_gradients(config: ConfigDict, mesh: Mesh) -> int:
    task = planned_task(config)
    return chip_bytes(abstract(mesh, lambda: agents.world_model_network(config, task))[1])
