"""Training of the reward model on windows of labeled episodes."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from wmpo_jax.agents.reward_model import classification_loss
from wmpo_jax.training.optimizers import OptimizerConfig, make_optimizer
from wmpo_jax.training.state import spread
from wmpo_jax.training.step import Batch, StepFunction, make_step

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


class EpisodeWindows:
    """`fit.Loader` of random windows of labeled episodes, which stay in the host's memory.

    Args:
      episodes: `<source>_ETHWC` uint8 videos of every one of SOURCES, success_E, finish_step_E and
        instruction_id_E.
      rows: which rows of a batch this host makes.
    """

    def __init__(
        self,
        episodes: Mapping[str, np.ndarray],
        config: RewardTraining,
        seed: int,
        rows: np.ndarray,
    ) -> None:
        self.batch_size = config.batch_size * config.accumulate
        self._episodes, self._config, self._seed, self._rows = episodes, config, seed, rows

    def iterate(self, step: int) -> Iterator[dict[str, np.ndarray]]:
        """The batches from `step` on; each is a function of (seed, step)."""
        return map(self.batch, itertools.count(step))

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """uint8 frames_BTHWC, int32 instruction_id_B, and whether success holds in the last frame.

        Before an episode's beginning stand copies of its first frame.
        """
        random, data = np.random.default_rng((self._seed, step)), self._episodes
        episode_B = random.integers(len(data["instruction_id_E"]), size=self.batch_size)
        end_B = random.integers(1, self._config.horizon + 1, size=self.batch_size)
        source_B = random.integers(len(SOURCES), size=self.batch_size)
        past_T = np.arange(1 - self._config.window, 1)
        frames = [
            data[f"{SOURCES[source_B[row]]}_ETHWC"][
                episode_B[row], np.maximum(end_B[row] + past_T, 0)
            ]
            for row in self._rows
        ]
        episode_B, end_B = episode_B[self._rows], end_B[self._rows]
        return {
            "frames_BTHWC": np.stack(frames),
            "instruction_id_B": data["instruction_id_E"][episode_B].astype(np.int32),
            "success_B": data["success_E"][episode_B] & (end_B >= data["finish_step_E"][episode_B]),
        }


def step_function(
    mesh: Mesh, graphdef: Any, config: RewardTraining, key: jax.Array
) -> StepFunction:
    """The step that the stage runs and the planner compiles, on batches of `EpisodeWindows`."""

    def loss(
        params: Any, data: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        del key, step
        rows, network = spread(mesh, data.rows), nnx.merge(graphdef, params)
        return classification_loss(
            network, rows["frames_BTHWC"], rows["instruction_id_B"], rows["success_B"]
        )

    return make_step(mesh, loss, optimizer(config), key, accumulate=config.accumulate)
