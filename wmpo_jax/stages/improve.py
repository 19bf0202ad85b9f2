"""Stage 6: GRPO in imagination. After the first frame of an episode nothing real is asked."""

import time
from typing import Any

import jax
import jax.numpy as jnp

from wmpo_jax.algorithm.imagination import ImaginedDynamics
from wmpo_jax.algorithm.protocols import Observation
from wmpo_jax.algorithm.rollout import rollout
from wmpo_jax.algorithm.trajectory import Trajectory
from wmpo_jax.runtime import sharding
from wmpo_jax.runtime.mesh import replicate, spread_whole
from wmpo_jax.runtime.metrics import read_metrics
from wmpo_jax.stages import grpo_loop, networks, training
from wmpo_jax.stages.agents import PolicyFamily, VideoRewardModel, VideoWorldModel, policy_family
from wmpo_jax.stages.autoencoder import load_video
from wmpo_jax.stages.grpo_loop import Recipe, Starts
from wmpo_jax.stages.phases import phase_seconds
from wmpo_jax.stages.real import first_frames
from wmpo_jax.stages.reward import load_reward_model
from wmpo_jax.stages.seeds import span
from wmpo_jax.stages.setting import Setting
from wmpo_jax.stages.sft import load_base_policy
from wmpo_jax.stages.world_model import load_world_model


def run(setting: Setting) -> None:
    """Writes checkpoints/improve, the policy improved in imagination."""
    started = time.monotonic()
    recipe = Recipe.from_config(setting)
    family = policy_family(setting.config, setting.env)
    base = load_base_policy(setting, family)
    # Whole on every device: split, it would be gathered in each denoising step of each chunk.
    world = replicate(setting.mesh, load_world(setting))

    @jax.jit
    def imagine(params: Any, world: tuple, starts: Observation, key: jax.Array) -> Trajectory:
        policy = family.policy(params, recipe.temperature)
        with sharding.over(setting.mesh):
            return rollout(policy, imagined(setting, *world), starts, key, setting.num_chunks)

    starts = _first_frames(setting, recipe)
    state, policy = grpo_loop.optimize(
        "improve",
        base,
        family,
        lambda params, start, key: imagine(params, world, start, key),
        starts,
        recipe,
        setting,
    )
    resets = int(state.batches) * recipe.groups
    setting.workdir.ledger.append(
        "improve",
        "imagination starts (first frames only)",
        episodes=0,
        control_steps=0,
        first_frames=resets,
        seeds=span(setting.starts("imagination", 0, resets)),
    )
    setting.workdir.mark_done(
        "improve",
        {
            "seconds": time.monotonic() - started,
            "iterations": recipe.iterations,
            "imagined_episodes": int(state.episodes),
            "phase_seconds": _per_phase(setting, family, policy, world, recipe),
        },
    )


def _per_phase(
    setting: Setting,
    family: PolicyFamily,
    params: Any,
    world: tuple[VideoWorldModel, VideoRewardModel, jax.Array],
    recipe: Recipe,
) -> dict[str, float]:
    """The measured seconds of sampling, shared out as its parts take when run alone; and update."""
    alone = phase_seconds(setting, family, params, world, recipe)
    records = read_metrics(setting.workdir.metrics / "improve.jsonl")
    share = sum(r["improve/seconds_sample"] for r in records) / sum(alone.values())
    update = sum(r["improve/seconds_update"] for r in records)
    return {name: seconds * share for name, seconds in alone.items()} | {"update": update}


def load_policy(setting: Setting, family: PolicyFamily) -> Any:
    """The params of the policy after its last iteration in imagination."""
    shapes = networks.policy_shapes(setting, family.build)
    params = grpo_loop.load_params(setting, "improve", shapes, Recipe.from_config(setting))
    return training.joined(params, networks.frozen_policy(setting, family.build))


def load_world(setting: Setting) -> tuple[VideoWorldModel, VideoRewardModel, jax.Array]:
    """World model, reward model and threshold: a pytree that can be given to a jitted function."""
    reward_model, threshold = load_reward_model(setting)
    return load_world_model(setting, load_video(setting)), reward_model, jnp.float32(threshold)


def imagined(
    setting: Setting,
    world_model: VideoWorldModel,
    reward_model: VideoRewardModel,
    threshold: jax.Array,
) -> ImaginedDynamics:
    """The learned world as dynamics, with the task's reward window."""
    return ImaginedDynamics(world_model, reward_model, threshold, setting.config.reward.min_step)


def _first_frames(setting: Setting, recipe: Recipe) -> Starts:
    """Batch number -> the first frames of fresh starts, each for one whole group."""
    look = first_frames(setting)

    def starts(batch: int) -> Observation:
        seen = look(setting.starts("imagination", batch * recipe.groups, recipe.groups))
        observation = jax.tree.map(lambda leaf: jnp.repeat(leaf, recipe.group_size, axis=0), seen)
        return spread_whole(setting.mesh, observation)

    return starts
