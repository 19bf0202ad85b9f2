"""Stage 1: demonstrations by the scripted expert, and task-agnostic play."""

import time
from typing import Any

import numpy as np

from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.envs.dynamics import Actor, collect, expert_actor
from wmpo_jax.envs.protocol import Episodes
from wmpo_jax.runtime.files import save_arrays, save_json
from wmpo_jax.runtime.progress import progress
from wmpo_jax.stages.seeds import seed_range, span
from wmpo_jax.stages.setting import Setting


def run(setting: Setting) -> None:
    """Writes data/demos and data/play (episodes.npz each) and the action statistics."""
    started = time.monotonic()
    env, config = setting.env, setting.config
    demos = _record(setting, "demos", expert_actor(env, config.demos.bias), config.demos)
    play = _record(setting, "play", env.play, config.play)
    statistics = ActionStatistics.from_actions(
        np.asarray(demos.labels_BTA).reshape(-1, env.action_dim)
    )
    save_json(setting.statistics_file, statistics.to_json())
    setting.workdir.mark_done(
        "demos",
        {
            "seconds": time.monotonic() - started,
            "demo_success": float(np.mean(demos.success_B)),
            "play_success": float(np.mean(play.success_B)),
            "invalid": int(np.sum(demos.invalid_B) + np.sum(play.invalid_B)),
        },
    )


def _record(setting: Setting, role: str, actor: Actor, section: Any) -> Episodes:
    seeds = seed_range(role, setting.config.seed, 0, section.episodes)
    with progress(section.episodes, 0, role) as bar:
        episodes = collect(
            setting.env,
            actor,
            seeds,
            setting.key(role),
            noise=section.noise,
            batch=min(256, section.episodes),
            on_batch=bar.advance,
        )
    save_arrays(setting.workdir.data(role) / "episodes.npz", vars(episodes))
    setting.workdir.ledger.append(
        "demos",
        role,
        episodes=section.episodes,
        control_steps=section.episodes * setting.env.horizon,
        seeds=span(seeds),
        success_rate=float(np.mean(episodes.success_B)),
        invalid=int(np.sum(episodes.invalid_B)),
    )
    return episodes
