"""Training of the per-frame autoencoder on recorded frames."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from wmpo_jax.agents.autoencoder import reconstruction_loss
from wmpo_jax.data.loading import WindowSpec
from wmpo_jax.training.optimizers import OptimizerConfig, make_optimizer
from wmpo_jax.training.state import spread
from wmpo_jax.training.step import Batch, StepFunction, make_step

WINDOW = WindowSpec(history=1, chunk=1, future=False)  # what is read of episodes on disk


@dataclass(frozen=True)
class AutoencoderTraining:
    """Hyperparameters; `kl_weight` of the posterior's divergence from a unit normal."""

    optimizer: OptimizerConfig
    batch_size: int
    kl_weight: float


def optimizer(config: AutoencoderTraining) -> Any:
    """The optax transformation."""
    return make_optimizer("autoencoder", config.optimizer, stacked="blocks")


def step_function(
    mesh: Mesh, graphdef: Any, config: AutoencoderTraining, sources: Sequence[str], key: jax.Array
) -> StepFunction:
    """The step that the stage runs.

    Its data are videos by source, uint8 [E, T, H, W, 3], or a streamed batch.
    """

    def loss(
        params: Any, data: Any, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        del step
        sample_key, noise_key = jax.random.split(key)
        frames = _sample_frames(data, sources, config.batch_size, sample_key)
        network = nnx.merge(graphdef, params)
        return reconstruction_loss(network, spread(mesh, frames), noise_key, config.kl_weight)

    return make_step(mesh, loss, optimizer(config), key)


def _sample_frames(data: Any, sources: Sequence[str], batch: int, key: jax.Array) -> jax.Array:
    """Half of the batch from play, a quarter each from demonstrations and the few rollouts.

    What a loader made is a batch already.
    """
    if isinstance(data, Batch):
        return data.rows["frames_BTHWC"][:, -1]
    picks = []
    for place, name in enumerate(sources):
        count = batch // 2 if name == "play" else batch // 4
        frames = data[name]
        episode_key, time_key = jax.random.split(jax.random.fold_in(key, place))
        episode = jax.random.randint(episode_key, (count,), 0, frames.shape[0])
        moment = jax.random.randint(time_key, (count,), 0, frames.shape[1])
        picks.append(frames[episode, moment])
    return jnp.concatenate(picks)
