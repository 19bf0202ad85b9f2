"""Stage 4b: the world model, pre-trained on demonstrations and play, aligned on real rollouts.

Later rounds of the lifelong loop only align it, on the rollouts of all rounds.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from wmpo_jax.assembly import agents, networks
from wmpo_jax.assembly.trained import TrainedRun
from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.runtime.files import load_arrays
from wmpo_jax.stages.autoencoder import write_latents
from wmpo_jax.stages.context import RunContext
from wmpo_jax.stages.recorded import recorded
from wmpo_jax.training import world_model
from wmpo_jax.training.fit import Stream, fit
from wmpo_jax.training.state import initial_state


def run(context: RunContext) -> dict[str, Any]:
    """Writes checkpoints/world_model; both phases are one training run with two mixtures."""
    config = agents.world_model_training(context.config, context.env)
    build = lambda: agents.world_model_network(context.config, context.env)  # noqa: E731
    graphdef, params = context.begin("world_model", build, TrainedRun.world_model_params)
    if context.round > 1:
        steps = dataclasses.replace(config.optimizer, steps=context.config.lifelong.align_steps)
        config = dataclasses.replace(config, optimizer=steps, pretrain_steps=0, forcing_from=0)
        _encode_rollouts(context)
    state = fit(
        context.loop_files("world_model"),
        context.mesh,
        initial_state(context.mesh, params, world_model.optimizer(config), averaged=True),
        world_model.step_function(context.mesh, graphdef, config, context.key("world_model")),
        _training_data(context, config),
        config.optimizer.steps,
        context.config.world_model.checkpoint_every,
    )
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    return {"step": int(state.step), "parameters": parameters}


def _encode_rollouts(context: RunContext) -> None:
    """Those of a later round, as stage autoencoder has done with the others."""
    name = context.named("rollouts")
    frames = context.episodes(name, context.named("collect"))["frames_BTHWC"]
    write_latents(context, context.trained.autoencoder(), name, frames)


def _training_data(
    context: RunContext, config: world_model.WorldModelTraining
) -> world_model.Corpus | Stream:
    """Latents and normalized actions of this run's own episodes; from disk, windows of frames.

    Those take the place of demonstrations and play, and come with the frozen autoencoder that
    encodes them; rollouts come from memory. Where latents are pixels the frames themselves are
    kept, which take a quarter of the memory, and the step encodes them.
    """
    pixels = networks.latents_are_pixels(context.config)
    parts: dict[str, list[dict[str, np.ndarray]]] = {}
    for name, stage in recorded(context).items():
        episodes = context.episodes(name, stage)
        part = {"actions_ETA": normalized_actions(episodes, context.statistics)}
        if pixels:
            part["frames_ETHWC"] = episodes["frames_BTHWC"]
        else:
            latents = load_arrays(context.workdir.data(name) / "latents.npz", "autoencoder")
            part["latents_ETHWC"] = latents["latents_BThwc"]
        source = "rollouts" if name.startswith("rollouts") else name  # of all rounds
        parts.setdefault(source, []).append(part)
    corpus: world_model.Corpus = {
        name: jax.tree.map(lambda *arrays: jnp.asarray(np.concatenate(arrays)), *found)
        for name, found in parts.items()
    }
    if context.mixture is None and "play" not in corpus:
        corpus["play"] = corpus["demos"]  # without play, demonstrations take its place
    if context.mixture is None:
        return corpus | ({"autoencoder": context.trained.autoencoder()} if pixels else {})
    rows = config.batch_size * config.accumulate
    stream = context.stream("world model data", config.window_spec, rows, clip=False)
    return Stream(stream.loader, {"autoencoder": context.trained.autoencoder(), **corpus})


def normalized_actions(episodes: Mapping[str, Any], statistics: ActionStatistics) -> np.ndarray:
    """Executed actions as the world model is conditioned on them, float32 [E, T - 1, A].

    Those of a policy are normalized already. Others may lie outside [-1, 1], which is kept: play
    moves in ways that demonstrations do not.
    """
    if "actions_BNKA" in episodes:
        return rearrange(np.asarray(episodes["actions_BNKA"]), "b n k a -> b (n k) a")
    actions = statistics.normalize(episodes["actions_BTA"], clip=False)
    return np.asarray(actions, np.float32)
