"""Training of the reward model on windows of labeled episodes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from wmpo_jax.agents.reward_model import classification_loss
from wmpo_jax.training.optimizers import OptimizerConfig, make_optimizer
from wmpo_jax.training.state import spread
from wmpo_jax.training.step import StepFunction, make_step

SOURCES = ("camera", "decoded", "imagined")  # of the frames of an episode
WEIGHT_DECAY = 0.05


@dataclass(frozen=True)
class RewardTraining:
    """Hyperparameters; `window` frames are seen at once, of episodes of `horizon` actions."""

    optimizer: OptimizerConfig
    batch_size: int
    window: int
    horizon: int
    accumulate: int = 1


def optimizer(config: RewardTraining) -> Any:
    """The optax transformation."""
    return make_optimizer("reward", config.optimizer, stacked="layers")


def step_function(
    mesh: Mesh, graphdef: Any, config: RewardTraining, key: jax.Array
) -> StepFunction:
    """The step that the stage runs and the planner compiles.

    Its data are labeled episodes: `<source>_ETHWC` uint8 videos of every source, success_E,
    finish_step_E and instruction_id_E.
    """

    def loss(
        params: Any, data: dict[str, jax.Array], key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        del step
        frames, instruction_id_B, success_B = spread(mesh, _windows(config, data, key))
        network = nnx.merge(graphdef, params)
        return classification_loss(network, frames, instruction_id_B, success_B)

    return make_step(mesh, loss, optimizer(config), key, accumulate=config.accumulate)


def _windows(
    config: RewardTraining, data: dict[str, jax.Array], key: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Frames, instruction, and whether success holds in the last frame, of random windows."""
    episode_key, end_key, source_key = jax.random.split(key, 3)
    shape = (config.batch_size,)
    episode_B = jax.random.randint(episode_key, shape, 0, data["instruction_id_E"].shape[0])
    end_B = jax.random.randint(end_key, shape, 1, config.horizon + 1)
    time_BT = jnp.maximum(end_B[:, None] + jnp.arange(1 - config.window, 1)[None], 0)
    videos = jnp.stack([data[f"{source}_ETHWC"][episode_B[:, None], time_BT] for source in SOURCES])
    source_B = jax.random.randint(source_key, shape, 0, len(SOURCES))
    frames = videos[source_B, jnp.arange(config.batch_size)]
    success_B = data["success_E"][episode_B] & (end_B >= data["finish_step_E"][episode_B])
    return frames, data["instruction_id_E"][episode_B], success_B
