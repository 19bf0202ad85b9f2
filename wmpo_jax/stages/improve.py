"""Stage 6: GRPO in imagination. After its first frame an episode uses nothing real."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from wmpo_jax.algorithm.protocols import Observation
from wmpo_jax.assembly import agents
from wmpo_jax.assembly.phases import phase_seconds
from wmpo_jax.assembly.seeds import span
from wmpo_jax.assembly.trained import imagined_sampler
from wmpo_jax.runtime.mesh import replicate, spread_if_even
from wmpo_jax.runtime.metrics import read_metrics
from wmpo_jax.stages.context import RunContext
from wmpo_jax.training import grpo


def run(context: RunContext) -> dict[str, Any]:
    """Writes checkpoints/improve, the policy improved in imagination."""
    config, trained = agents.grpo_config(context.config), context.trained
    # Whole on every device: split, it would be gathered in each denoising step of each chunk.
    parts = replicate(context.mesh, trained.imagined_parts())
    min_step, chunks = context.config.reward.min_step, context.real.num_chunks
    imagine = imagined_sampler(context.mesh, trained.policy, config, min_step, chunks)
    state, params = grpo.optimize(
        context.loop_files("improve"),
        context.mesh,
        trained.policy_params("sft"),
        trained.policy,
        lambda params, start, key: imagine(params, parts, start, key),
        _first_frames(context),
        config,
        context.key("improve"),
    )
    resets = int(state.starts)
    context.workdir.ledger.append(
        "improve",
        "imagination starts (first frames only)",
        episodes=0,
        control_steps=0,
        first_frames=resets,
        seeds=span(context.starts("imagination", 0, resets)),
    )
    alone = phase_seconds(context.mesh, context.env, trained.policy, params, parts, config, chunks)
    return {
        "step": int(state.iteration),
        "iterations": config.iterations,
        "imagined_episodes": int(state.episodes),
        "phase_seconds": _shared_out(context, alone),
    }


def _shared_out(context: RunContext, alone: Mapping[str, float]) -> dict[str, float]:
    """The measured seconds of sampling, shared out as its parts take when run alone; and update."""
    records = read_metrics(context.workdir.metrics / "improve.jsonl")
    share = sum(r["improve/seconds_sample"] for r in records) / sum(alone.values())
    update = sum(r["improve/seconds_update"] for r in records)
    return {name: seconds * share for name, seconds in alone.items()} | {"update": update}


def _first_frames(context: RunContext) -> grpo.Starts:
    """The first frames of fresh starts, each for one whole group."""
    look = context.real.first_frames()

    def starts(first: int, count: int) -> Observation:
        seen = look(context.starts("imagination", first, count))
        return spread_if_even(context.mesh, jax.tree.map(np.asarray, seen))

    return starts
