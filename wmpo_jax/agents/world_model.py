"""The world model: STDiT rectified flow in the autoencoder's latents; how it predicts; its loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx, struct

from wmpo_jax.agents.autoencoder import FrameAutoencoder
from wmpo_jax.algorithm import flow
from wmpo_jax.models.stdit import STDiT, STDiTConfig
from wmpo_jax.runtime.errors import UserError


@dataclass(frozen=True)
class FlowConfig:
    """How a world model is trained and sampled.

    Attributes:
      image_size: side of the decoded frames in pixels, an input of the network.
      prediction: meaning of the network's output, see `algorithm.flow`.
      sampling_steps: Euler steps per chunk.
      history_noise: u in [0, 1], how far history frames are moved toward noise in training.
      timestep_shift: > 1 trains more near the noisy end.
      start_spread: how far around the newest frame residual paths begin; 0 with one sampling step
        makes a regression, for worlds without chance.
      train_times: noise levels of training: "spread" over all of them, or those "sampled" alone. A
        network that mostly sees a target through little noise learns to read it there.
    """

    image_size: int
    prediction: flow.Prediction = "velocity"
    sampling_steps: int = 30  # of the released inference config
    history_noise: float = flow.HISTORY_TIMESTEP / flow.MAX_TIMESTEP
    timestep_shift: float = 1.0
    start_spread: float = flow.RESIDUAL_SPREAD
    train_times: Literal["spread", "sampled"] = "spread"


class VideoWorldModel(struct.PyTreeNode):
    """`algorithm.imagination.WorldModel`."""

    params: Any
    autoencoder: FrameAutoencoder
    graphdef: Any = struct.field(pytree_node=False)
    history: int = struct.field(pytree_node=False)
    flow: FlowConfig = struct.field(pytree_node=False)

    def encode(self, frames_BTHWC: jax.Array, key: jax.Array) -> jax.Array:
        """uint8 frames -> scaled latents; UserError when they have another size than its own."""
        sides = frames_BTHWC.shape[2:4]
        if sides != (self.flow.image_size, self.flow.image_size):
            raise UserError(
                f"The world model was opened for frames of {self.flow.image_size} pixels and these "
                f"have {sides[0]} x {sides[1]}: resize them, or open it with their image_size."
            )
        return self.autoencoder.encode(frames_BTHWC, key)

    def decode(self, latents_BThwc: jax.Array) -> jax.Array:
        """Scaled latents -> uint8 frames."""
        return self.autoencoder.decode(latents_BThwc)

    def predict(
        self, history_BThwc: jax.Array, actions_BKA: jax.Array, key: jax.Array
    ) -> jax.Array:
        """Latents of the next K frames.

        Args:
          history_BThwc: the last `history` frames' latents; an episode begins with copies of its
            first frame.
          actions_BKA: normalized actions, the gripper as the policy gave it.
        """
        network = nnx.merge(self.graphdef, self.params)
        noise = chunk_noise(key, history_BThwc, actions_BKA.shape[1])
        steps = self.flow.sampling_steps
        return predict_chunk(network, self.flow, history_BThwc, actions_BKA, noise, steps)


def build_world_model(config: STDiTConfig, seed: int = 0) -> STDiT:
    """The network with fresh weights."""
    return STDiT(config, rngs=nnx.Rngs(seed))


def make_world_model(
    config: STDiTConfig, flow_config: FlowConfig, params: Any, autoencoder: FrameAutoencoder
) -> VideoWorldModel:
    """The one constructor; `params` may be shapes."""
    return VideoWorldModel(
        params=params,
        autoencoder=autoencoder,
        graphdef=nnx.graphdef(nnx.eval_shape(lambda: build_world_model(config))),
        history=config.history,
        flow=flow_config,
    )


def condition(network: STDiT, actions_BKA: jax.Array) -> jax.Array:
    """What each frame is conditioned on: its action and the sum of the chunk's so far.

    The sum says where the tool is going without integrating over frames; it halved the error of
    small models. A network of the released form is conditioned on the action alone.
    """
    if network.config.action_dim == actions_BKA.shape[-1]:
        return actions_BKA
    return jnp.concatenate([actions_BKA, jnp.cumsum(actions_BKA, axis=1) / 2.0], axis=-1)


def chunk_noise(key: jax.Array, history_BThwc: jax.Array, chunk: int) -> jax.Array:
    """Unit noise of the shape of the next `chunk` frames."""
    batch, _, *frame = history_BThwc.shape
    return jax.random.normal(key, (batch, chunk, *frame))


def chunk_velocity(
    network: STDiT, config: FlowConfig, history_BThwc: jax.Array, actions_BKA: jax.Array
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """(noisy chunk, timestep_B or _1) -> velocity, over a cache of the history's keys and values.

    The history does not depend on the denoising step, so that the cache is exact.
    """
    size, newest_BHWC = config.image_size, history_BThwc[:, -1]
    cache = network.encode_history(history_BThwc, size, size)
    condition_BKX = condition(network, actions_BKA)

    def velocity(noisy_BKhwc: jax.Array, timestep_B: jax.Array) -> jax.Array:
        output = network.denoise(noisy_BKhwc, timestep_B, condition_BKX, cache, size, size)
        output = output[..., : noisy_BKhwc.shape[-1]]  # the rest is the released form's sigma
        return flow.velocity(output, noisy_BKhwc, timestep_B, newest_BHWC, config.prediction)

    return velocity


def predict_chunk(
    network: STDiT,
    config: FlowConfig,
    history_BThwc: jax.Array,
    actions_BKA: jax.Array,
    noise_BKhwc: jax.Array,
    steps: int,
) -> jax.Array:
    """Samples the latents of the next K frames from `chunk_noise` by `steps` Euler steps."""
    start, frames = noise_BKhwc, history_BThwc.shape[1] + noise_BKhwc.shape[1]
    if config.prediction == "residual":
        start = flow.residual_start(noise_BKhwc, history_BThwc[:, -1], config.start_spread)
    velocity = chunk_velocity(network, config, history_BThwc, actions_BKA)
    return flow.euler_sample(velocity, start, steps, sampling_ratio(config, frames))


def sampling_ratio(config: FlowConfig, frames: int) -> float:
    """How far the times at which a window of so many frames is sampled are shifted toward noise."""
    if config.prediction == "residual":
        return 1.0
    return flow.transform_ratio(config.image_size, config.image_size, frames)


def window_loss(
    network: STDiT,
    config: FlowConfig,
    latents_BThwc: jax.Array,
    actions_BKA: jax.Array,
    noise_BThwc: jax.Array,
    t_B: jax.Array,
    mask_BT: jax.Array,
) -> jax.Array:
    """Flow loss of each window, float32 (B,): the frames with mask True are predicted.

    Args:
      latents_BThwc: history and chunk.
      actions_BKA: the actions that lead to the chunk's frames.
      noise_BThwc: unit noise of the window's shape.
      t_B: noise level of the chunk, 0 to 1000.
    """
    history_t = flow.MAX_TIMESTEP * config.history_noise
    noisy, target = flow.training_example(
        latents_BThwc, noise_BThwc, t_B, mask_BT, history_t, config.prediction, config.start_spread
    )
    conditions, size = condition(network, actions_BKA), config.image_size
    output = network(noisy, t_B, conditions, mask_BT, size, size)
    # Behind the latents' channels the released form has an untrained sigma.
    return flow.flow_loss(output[..., : target.shape[-1]], target, mask_BT)


def flow_loss(
    network: STDiT,
    config: FlowConfig,
    history_BThwc: jax.Array,
    chunk_BKhwc: jax.Array,
    actions_BKA: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """Mean `window_loss` at random noise levels: the scalar that training minimizes."""
    time_key, noise_key = jax.random.split(key)
    latents = jnp.concatenate([history_BThwc, chunk_BKhwc], axis=1)
    if config.train_times == "sampled":
        ratio = sampling_ratio(config, latents.shape[1])
        asked_N = flow.euler_timesteps(config.sampling_steps, ratio)
        t_B = jax.random.choice(time_key, asked_N, (len(latents),))
    else:
        t_B = flow.sample_timesteps(time_key, len(latents), config.timestep_shift)
    noise = jax.random.normal(noise_key, latents.shape)
    frames = jnp.arange(latents.shape[1])
    mask_BT = jnp.broadcast_to(frames >= history_BThwc.shape[1], latents.shape[:2])
    return window_loss(network, config, latents, actions_BKA, noise, t_B, mask_BT).mean()
