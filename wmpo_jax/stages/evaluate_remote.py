"""Stage evaluate with config.task = "remote": a policy served by anyone, in our environment."""

from typing import Any

import numpy as np

from wmpo_jax.assembly.remote import RemotePlayer, remote_policy
from wmpo_jax.assembly.seeds import span
from wmpo_jax.runtime.files import save_arrays
from wmpo_jax.runtime.mesh import fetch
from wmpo_jax.runtime.progress import progress, say
from wmpo_jax.stages.context import RunContext
from wmpo_jax.stages.rates import by_task


def run(context: RunContext) -> dict[str, Any]:
    """Writes data/evaluation/results.npz, one row per episode, and the rates.

    Raises:
      UserError: no server answers, it refuses, or its policy is for another robot.
    """
    section, env = context.config.evaluate, context.env
    seeds = context.starts("evaluation", 0, section.episodes)
    policy = remote_policy(context.config, env)
    play, parts = RemotePlayer(env, policy), []
    with progress(len(seeds), 0, "evaluate") as bar:
        for starts_B in seeds.reshape(-1, section.batch_size):
            played = fetch(play(starts_B))
            parts.append(
                {
                    "success": played.success_B,
                    "finish_step": played.finish_step_B,
                    "instruction_id": played.instruction_id_B,
                    "invalid": played.invalid_B,
                }
            )
            bar.advance(len(starts_B))
    outcome = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    save_arrays(context.workdir.data("evaluation") / "results.npz", {"seeds": seeds, **outcome})
    context.workdir.ledger.append(
        "evaluate",
        "evaluation of a served policy",
        episodes=len(seeds),
        seeds=span(seeds),
        used_for_training=False,
    )
    served = {name: str(value)[:500] for name, value in policy.metadata.items()}
    result = by_task(outcome, env.instructions) | {"server": served, **context.provenance()}
    say(f"{env.name}: {result['overall']}")
    return result
