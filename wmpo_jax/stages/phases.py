"""Where the seconds of an imagined batch go, each part timed alone.

The rollout is one compiled program, so its parts cannot be timed inside it; here each part runs by
itself on arrays of the shapes that the rollout gives it, once for every chunk of an episode.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wmpo_jax.algorithm.protocols import Observation
from wmpo_jax.stages.agents import PolicyFamily, VideoJudge, VideoWorldModel
from wmpo_jax.stages.grpo_loop import Recipe
from wmpo_jax.stages.setting import Setting

REPEATS = 3


def phase_seconds(
    setting: Setting,
    family: PolicyFamily,
    params: Any,
    world: tuple[VideoWorldModel, VideoJudge, jax.Array],
    recipe: Recipe,
) -> dict[str, float]:
    """Seconds per imagined batch of groups x group_size episodes: policy, world model, ..."""
    world_model, judge, _ = world
    env, batch = setting.env, recipe.groups * recipe.group_size
    key = jax.random.key(0)
    frame = jnp.zeros((batch, env.image_size, env.image_size, 3), jnp.uint8)
    start = Observation(frame_BHWC=frame, goal_B=jnp.zeros(batch, jnp.int32))
    actions = jnp.zeros((batch, env.chunk, env.action_dim))
    film = jnp.repeat(frame[:, None], judge.window - 1 + env.chunk, axis=1)

    def act(params: Any, start: Observation) -> Any:
        return family.policy(params, recipe.temperature)(start, key)

    latent = jax.jit(VideoWorldModel.encode)(world_model, frame[:, None], key)
    history = jnp.repeat(latent, world_model.history, axis=1)
    chunk_latents = jnp.repeat(latent, env.chunk, axis=1)
    once = {
        "policy": _seconds(act, params, start),
        "world model": _seconds(VideoWorldModel.predict, world_model, history, actions, key),
        "decode": _seconds(VideoWorldModel.decode, world_model, chunk_latents),
        "reward": _seconds(VideoJudge.score, judge, film, start.goal_B),
    }
    return {name: seconds * setting.num_chunks for name, seconds in once.items()}


def _seconds(function: Callable[..., Any], *arguments: Any) -> float:
    """Fastest of a few runs of the compiled function, in seconds."""
    compiled = jax.jit(function)
    jax.block_until_ready(compiled(*arguments))
    best = float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        best = min(best, time.perf_counter() - started)
    return best
