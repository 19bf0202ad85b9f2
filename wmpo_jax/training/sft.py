"""Imitation: supervised fine-tuning of the policy on action tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from wmpo_jax.agents.policy import Policy
from wmpo_jax.data.loading import WindowSpec
from wmpo_jax.training.optimizers import OptimizerConfig, make_optimizer
from wmpo_jax.training.state import spread
from wmpo_jax.training.step import Batch, StepFunction, make_step


@dataclass(frozen=True)
class SFTConfig:
    """Hyperparameters of imitation.

    Attributes:
      batch_size: frames of one micro-batch, of which a step adds up `accumulate`.
      soft_label_sigma: bins; see `Policy.imitation_loss`.
      augment: random crops and colors of the frames, as the reference trains with.
    """

    optimizer: OptimizerConfig
    batch_size: int
    soft_label_sigma: float
    augment: bool
    accumulate: int = 1


def optimizer(config: SFTConfig) -> Any:
    """The optax transformation."""
    return make_optimizer("sft", config.optimizer, stacked="blocks")


def window_spec(chunk: int) -> WindowSpec:
    """What is read of episodes on disk."""
    return WindowSpec(history=1, chunk=chunk, future=False)


def samples(
    frames_ETHWC: np.ndarray, labels_ETA: np.ndarray, instruction_id_E: np.ndarray, chunk: int
) -> dict[str, np.ndarray]:
    """Frames and the normalized chunks that follow them, for every step that has a whole chunk."""
    count = labels_ETA.shape[1] - chunk + 1
    chunks = np.stack([labels_ETA[:, s : s + chunk] for s in range(count)], axis=1)
    frames = frames_ETHWC[:, :count]
    return {
        "frame_XHWC": frames.reshape(-1, *frames.shape[2:]),
        "chunk_XKA": chunks.reshape(-1, *chunks.shape[2:]).astype(np.float32),
        "instruction_id_X": np.repeat(instruction_id_E, count),
    }


def step_function(mesh: Mesh, policy: Policy, config: SFTConfig, key: jax.Array) -> StepFunction:
    """The step that the stage runs and the planner compiles, on `samples` or streamed batches."""

    def loss(
        params: Any, data: Any, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        del step
        batch_key, augment_key = jax.random.split(key)
        batch = spread(mesh, _batch(config.batch_size, data, batch_key))
        return policy.imitation_loss(
            params,
            batch["frame_XHWC"],
            batch["instruction_id_X"],
            batch["chunk_XKA"],
            config.soft_label_sigma,
            augment_key if config.augment else None,
        )

    return make_step(mesh, loss, optimizer(config), key, accumulate=config.accumulate)


def _batch(batch_size: int, data: Any, key: jax.Array) -> dict[str, jax.Array]:
    """Drawn from `samples`, or what a loader made."""
    if isinstance(data, Batch):
        return {
            "frame_XHWC": data.rows["frames_BTHWC"][:, -1],
            "chunk_XKA": data.rows["actions_BKA"],
            "instruction_id_X": data.rows["instruction_id_B"],
        }
    index_B = jax.random.randint(key, (batch_size,), 0, data["instruction_id_X"].shape[0])
    return {name: values[index_B] for name, values in data.items()}
