"""Where the seconds of an imagined batch go, each part timed alone.

The rollout is one compiled program, so its parts cannot be timed inside it; here each part runs by
itself on arrays of the shapes that the rollout gives it, once for every chunk of an episode.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from wmpo_jax.agents.policy import Policy
from wmpo_jax.agents.reward_model import VideoRewardModel
from wmpo_jax.agents.world_model import VideoWorldModel
from wmpo_jax.algorithm.protocols import Observation
from wmpo_jax.assembly.trained import ImaginedParts
from wmpo_jax.envs.protocol import Task
from wmpo_jax.runtime import sharding
from wmpo_jax.runtime.mesh import spread_whole
from wmpo_jax.training.grpo import GRPOConfig

REPEATS = 3


def phase_seconds(
    mesh: Mesh,
    task: Task,
    policy: Policy,
    params: Any,
    parts: ImaginedParts,
    config: GRPOConfig,
    num_chunks: int,
) -> dict[str, float]:
    """Seconds per imagined batch of groups x group_size episodes: policy, world model, ..."""
    world_model, reward_model, _ = parts
    batch, side = config.episodes, task.image_size
    key = jax.random.key(0)
    frame, instruction_id, actions = spread_whole(
        mesh,
        (
            np.zeros((batch, side, side, 3), np.uint8),
            np.zeros(batch, np.int32),
            np.zeros((batch, task.chunk, task.action_dim), np.float32),
        ),
    )
    start = Observation(frame_BHWC=frame, instruction_id_B=instruction_id)
    video = jnp.repeat(frame[:, None], reward_model.window - 1 + task.chunk, axis=1)

    def act(params: Any, start: Observation) -> Any:
        return policy.acting(params, config.temperature)(start, key)

    latent = sharding.compiled(mesh, VideoWorldModel.encode)(world_model, frame[:, None], key)
    history = jnp.repeat(latent, world_model.history, axis=1)
    chunk_latents = jnp.repeat(latent, task.chunk, axis=1)
    once: dict[str, tuple[Any, ...]] = {
        "policy": (act, params, start),
        "world model": (VideoWorldModel.predict, world_model, history, actions, key),
        "decode": (VideoWorldModel.decode, world_model, chunk_latents),
        "reward": (VideoRewardModel.score, reward_model, video, instruction_id),
    }
    return {name: _seconds(mesh, *part) * num_chunks for name, part in once.items()}


def _seconds(mesh: Mesh, function: Callable[..., Any], *arguments: Any) -> float:
    """Fastest of a few runs of the compiled function, in seconds."""
    compiled = sharding.compiled(mesh, function)
    jax.block_until_ready(compiled(*arguments))
    best = float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        best = min(best, time.perf_counter() - started)
    return best
