"""The networks in their roles: policy, world model and reward model, as the algorithm knows them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct
from jax.sharding import Mesh
from ml_collections import ConfigDict

from wmpo_jax.algorithm import rectified_flow
from wmpo_jax.algorithm.grpo import token_log_probs
from wmpo_jax.algorithm.protocols import ChunkOutcome, Observation, PolicyOutput
from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.data.transforms import ImageTransform
from wmpo_jax.envs.dynamics import MjxDynamics
from wmpo_jax.envs.protocol import Environment, Task
from wmpo_jax.models.autoencoder_kl import decode_frames, encode_frames
from wmpo_jax.models.stdit import STDiT
from wmpo_jax.models.videomae import VideoMAE
from wmpo_jax.models.videomae.windows import score_windows
from wmpo_jax.models.vla import VLA, action_tokens
from wmpo_jax.models.vla.lora import add_lora
from wmpo_jax.stages import networks, training

MICRO_BATCH_PIXELS = 512 * 32 * 32  # through the autoencoder at once


@dataclass(frozen=True)
class PolicyFamily:
    """A VLA without its weights: network, prompts of the task, image transform, tokens.

    `build` makes it with fresh weights; `networks.create_policy` knows where they belong. Methods
    take all parameters of the network, or adapters and frozen ones in a `training.Adapted`.
    """

    build: Callable[[], VLA]
    graphdef: Any
    transform: ImageTransform
    prompts_GL: np.ndarray
    lengths_G: np.ndarray
    bins: int

    def logits(self, params: Any, observation: Observation) -> jax.Array:
        """float32 logits_BKAV over action classes."""
        return self.logits_of_frames(params, observation.frame_BHWC, observation.instruction_id_B)

    def logits_of_frames(
        self, params: Any, frames_BHWC: jax.Array, instruction_id_B: jax.Array
    ) -> jax.Array:
        parts = params if isinstance(params, training.Adapted) else (params,)
        network = nnx.merge(self.graphdef, *parts)
        pixels = self.transform(frames_BHWC)
        prompt_BL = jnp.asarray(self.prompts_GL)[instruction_id_B]
        same_length = (self.lengths_G == self.lengths_G[0]).all()
        length_B = None if same_length else jnp.asarray(self.lengths_G)[instruction_id_B]
        return network(pixels, prompt_BL, length_B)

    def policy(self, params: Any, temperature: float, greedy: bool = False) -> "VLAPolicy":
        return VLAPolicy(self, params, temperature, greedy)


@dataclass(frozen=True)
class VLAPolicy:
    """`algorithm.protocols.Policy`: samples (or takes the best of) every action token at once."""

    family: PolicyFamily
    params: Any
    temperature: float
    greedy: bool

    def __call__(self, observation: Observation, key: jax.Array) -> PolicyOutput:
        logits = self.family.logits(self.params, observation)
        if self.greedy:
            tokens = jnp.argmax(logits, axis=-1)
        else:
            tokens = jax.random.categorical(key, logits / self.temperature)
        log_probs, _ = token_log_probs(logits, tokens, self.temperature)
        return PolicyOutput(
            tokens_BKA=tokens.astype(jnp.int32),
            actions_BKA=jnp.asarray(action_tokens.decode(tokens, self.family.bins)),
            log_probs_BKA=log_probs,
        )


def policy_family(config: ConfigDict, env: Task) -> PolicyFamily:
    """The VLA for a task; fresh weights depend on config.seed."""
    vla_config = networks.vla_config(config, env)
    prompts_GL, lengths_G = networks.tokenizer(config).encode_batch(env.instructions)

    rank = networks.lora_rank(config)

    def build() -> VLA:
        network = VLA(vla_config, rngs=nnx.Rngs(config.seed))
        if rank:
            add_lora(network, rank, config.policy.lora_alpha, rngs=nnx.Rngs(config.seed + 1))
        return network

    return PolicyFamily(
        build=build,
        graphdef=nnx.graphdef(nnx.eval_shape(build)),
        transform=ImageTransform(networks.vla_transform(config)),
        prompts_GL=prompts_GL,
        lengths_G=lengths_G,
        bins=vla_config.n_action_classes,
    )


class RealDynamics:
    """MJX behind the policy's action units: normalized [-1, 1] in, the task's own units out."""

    def __init__(self, env: Environment, statistics: ActionStatistics, mesh: Mesh | None = None):
        self._mjx = MjxDynamics(env, mesh)
        self._statistics = statistics

    def reset(self, start: jax.Array, key: jax.Array) -> tuple[Any, Observation]:
        return self._mjx.reset(start, key)

    def step(
        self, state: Any, actions_BKA: jax.Array, key: jax.Array
    ) -> tuple[Any, Observation, ChunkOutcome]:
        return self._mjx.step(state, jnp.asarray(self._statistics.unnormalize(actions_BKA)), key)


def condition(network: STDiT, actions_BKA: jax.Array) -> jax.Array:
    """What the world model is told per frame: the action and the sum of the chunk's so far.

    The sum says where the tool is going without integrating over frames; it halved the error of
    small models. A network of the released form is told the action alone.
    """
    if network.config.action_dim == actions_BKA.shape[-1]:
        return actions_BKA
    return jnp.concatenate([actions_BKA, jnp.cumsum(actions_BKA, axis=1) / 2.0], axis=-1)


class LatentVideo(struct.PyTreeNode):
    """The frozen autoencoder: uint8 frames to scaled latents and back."""

    params: Any
    graphdef: Any = struct.field(pytree_node=False)

    def encode(self, frames_BTHWC: jax.Array, key: jax.Array) -> jax.Array:
        network = nnx.merge(self.graphdef, self.params)
        frames = _at_once(math.prod(frames_BTHWC.shape[2:4]))
        return encode_frames(network, frames_BTHWC, key, micro_batch=frames)

    def decode(self, latents_BThwc: jax.Array) -> jax.Array:
        network = nnx.merge(self.graphdef, self.params)
        pixels = math.prod(latents_BThwc.shape[2:4]) * network.config.downsampling**2
        return decode_frames(network, latents_BThwc, micro_batch=_at_once(pixels))


def _at_once(pixels: int) -> int:
    """Frames of so many pixels; map_rows takes one per device at least."""
    return max(1, MICRO_BATCH_PIXELS // pixels)


class VideoWorldModel(struct.PyTreeNode):
    """`algorithm.imagination.WorldModel`: STDiT rectified flow in the autoencoder's latents."""

    params: Any
    video: LatentVideo
    graphdef: Any = struct.field(pytree_node=False)
    history: int = struct.field(pytree_node=False)
    steps: int = struct.field(pytree_node=False)
    image_size: int = struct.field(pytree_node=False)
    prediction: rectified_flow.Prediction = struct.field(pytree_node=False, default="residual")

    def encode(self, frames_BTHWC: jax.Array, key: jax.Array) -> jax.Array:
        return self.video.encode(frames_BTHWC, key)

    def decode(self, latents_BThwc: jax.Array) -> jax.Array:
        return self.video.decode(latents_BThwc)

    def predict(
        self, history_BThwc: jax.Array, actions_BKA: jax.Array, key: jax.Array
    ) -> jax.Array:
        network = nnx.merge(self.graphdef, self.params)
        return predict_chunk(
            network, history_BThwc, actions_BKA, key, self.steps, self.image_size, self.prediction
        )


def predict_chunk(
    network: STDiT,
    history_BThwc: jax.Array,
    actions_BKA: jax.Array,
    key: jax.Array,
    steps: int,
    image_size: int,
    prediction: rectified_flow.Prediction,
) -> jax.Array:
    """Samples the latents of the next K frames: Euler steps over a cached history."""
    cache = network.encode_history(history_BThwc, image_size, image_size)
    condition_BKX = condition(network, actions_BKA)
    batch, chunk = condition_BKX.shape[:2]
    noise = jax.random.normal(key, (batch, chunk, *history_BThwc.shape[2:]))
    last_BHWC = history_BThwc[:, -1]
    start, ratio = noise, 1.0
    if prediction == "residual":
        start = rectified_flow.residual_start(noise, last_BHWC)
    else:
        frames = history_BThwc.shape[1] + chunk
        ratio = rectified_flow.transform_ratio(image_size, image_size, frames)

    def velocity(noisy_BKhwc: jax.Array, timestep_B: jax.Array) -> jax.Array:
        output = network.denoise(
            noisy_BKhwc, timestep_B, condition_BKX, cache, image_size, image_size
        )
        output = output[..., : noisy_BKhwc.shape[-1]]  # the rest is the released form's sigma
        return rectified_flow.velocity(output, noisy_BKhwc, timestep_B, last_BHWC, prediction)

    return rectified_flow.euler_sample(velocity, start, steps, ratio)


def world_model_network(config: ConfigDict, env: Task) -> STDiT:
    return STDiT(networks.stdit_config(config, env), rngs=nnx.Rngs(config.seed))


class VideoRewardModel(struct.PyTreeNode):
    """`algorithm.imagination.RewardModel`: VideoMAE with one (fail, success) pair per goal."""

    params: Any
    graphdef: Any = struct.field(pytree_node=False)
    window: int = struct.field(pytree_node=False)

    def score(self, frames_BTHWC: jax.Array, instruction_id_B: jax.Array) -> jax.Array:
        network = nnx.merge(self.graphdef, self.params)
        logits_BKX = score_windows(network, frames_BTHWC)
        pair_BK2 = jax.vmap(success_logits, in_axes=(1, None), out_axes=1)(
            logits_BKX, instruction_id_B
        )
        return jax.nn.softmax(pair_BK2)[..., 1]


def success_logits(logits_BX: jax.Array, instruction_id_B: jax.Array) -> jax.Array:
    """The (fail, success) pair of the spoken goal, [B, 2], out of one pair per goal, [B, 2G]."""
    pairs_BG2 = logits_BX.reshape(logits_BX.shape[0], -1, 2)
    return jnp.take_along_axis(pairs_BG2, instruction_id_B[:, None, None], axis=1)[:, 0]


def reward_network(config: ConfigDict, env: Task) -> VideoMAE:
    return VideoMAE(networks.videomae_config(config, env), rngs=nnx.Rngs(config.seed))
