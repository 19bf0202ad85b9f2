"""Stage 1: demonstrations by the scripted expert, and task-agnostic play; or a dataset on disk."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from wmpo_jax.assembly import networks
from wmpo_jax.assembly.real import shared_out
from wmpo_jax.assembly.seeds import span
from wmpo_jax.assembly.trained import statistics_file
from wmpo_jax.data.mixture import Mixture
from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.envs.dynamics import collect, expert_actor
from wmpo_jax.envs.protocol import Episodes, HostEnvironment
from wmpo_jax.runtime.distributed import exchange
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import save_arrays, save_record
from wmpo_jax.runtime.progress import progress
from wmpo_jax.stages.context import RunContext


def run(context: RunContext) -> dict[str, Any]:
    """Writes data/demos and data/play (episodes.npz each) and the action statistics.

    With a dataset on disk only the statistics are written; later stages stream from the dataset.
    """
    if context.mixture is not None:
        return _adopt(context, context.mixture)
    config = context.config
    demos = _record(context, "demos", config.demos)
    play = _record(context, "play", config.play) if config.play.episodes else None
    labels_XA = np.asarray(demos.labels_BTA).reshape(-1, context.env.action_dim)
    own = networks.policy_statistics(config, context.env)
    statistics = own or ActionStatistics.from_actions(labels_XA)
    save_record(statistics_file(context.workdir), statistics.to_json())
    return {
        "demo_success": float(np.mean(demos.success_B)),
        **({"play_success": float(np.mean(play.success_B))} if play else {}),
        "invalid": sum(int(np.sum(episodes.invalid_B)) for episodes in (demos, play) if episodes),
        **context.provenance(),
    }


def _adopt(context: RunContext, mixture: Mixture) -> dict[str, Any]:
    """Statistics of the (first) dataset, in whose units a policy will act; what there is.

    A policy that is imported acts in its own.
    """
    if mixture.action_dim != context.env.action_dim:
        raise UserError(
            f"{context.config.data.source} has {mixture.action_dim} numbers per action and the "
            f"task {context.env.name} {context.env.action_dim}: leave config.task empty."
        )
    own = networks.policy_statistics(context.config, context.env)
    save_record(statistics_file(context.workdir), (own or mixture.datasets[0].statistics).to_json())
    entries = [entry for dataset in mixture.datasets for entry in dataset.episodes]
    context.workdir.ledger.append(
        "demos",
        "demos",
        episodes=len(entries),
        control_steps=sum(entry.steps for entry in entries),
        source=str(context.config.data.source),
    )
    known = [entry.success for entry in entries if entry.success is not None]
    bad = sum(len(dataset.bad) for dataset in mixture.datasets)
    success = {"demo_success": float(np.mean(known))} if known else {}
    return {"episodes": len(entries), "bad_episodes": bad, **success}


def _record(context: RunContext, role: str, section: Any) -> Episodes:
    seeds = context.starts(role, 0, section.episodes)
    with progress(section.episodes, 0, role) as bar:
        episodes = _episodes(context, role, section, seeds, bar.advance)
    save_arrays(context.workdir.data(role) / "episodes.npz", vars(episodes))
    context.workdir.ledger.append(
        "demos",
        role,
        episodes=section.episodes,
        control_steps=section.episodes * context.env.horizon,
        seeds=span(seeds),
        success_rate=float(np.mean(episodes.success_B)),
        invalid=int(np.sum(episodes.invalid_B)),
    )
    return episodes


def _episodes(
    context: RunContext, role: str, section: Any, seeds: np.ndarray, on_batch: Callable[[int], None]
) -> Episodes:
    """The expert's for `demos`, play's for `play`."""
    env = context.env
    if isinstance(env, HostEnvironment):
        return _recorded_on_hosts(context, env, role, section.noise, seeds, on_batch)
    return collect(
        env,
        expert_actor(env, section.bias) if role == "demos" else env.play,
        seeds,
        context.key(role),
        noise=section.noise,
        batch=min(256, section.episodes),
        mesh=context.mesh,
        on_batch=on_batch,
    )


def _recorded_on_hosts(
    context: RunContext,
    env: HostEnvironment,
    role: str,
    noise: float,
    seeds: np.ndarray,
    on_batch: Callable[[int], None],
) -> Episodes:
    """Every host records its part of the seeds; all have all of them in the end."""
    actor = "expert" if role == "demos" else "play"

    def record(number: int, rows: np.ndarray) -> dict[str, Any]:
        del number
        return vars(env.record(seeds[rows], actor, noise, on_batch))

    parts = np.array_split(np.arange(len(seeds)), min(jax.process_count(), len(seeds)))
    return Episodes(**shared_out(parts, record, partial(exchange, context.workdir.data(role))))
