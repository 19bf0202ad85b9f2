"""Stage 7: the real success rate of base and improved policy, on starts nobody was trained on."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.envs.protocol import HostEnvironment
from wmpo_jax.report.intervals import paired_difference, wilson
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import save_arrays
from wmpo_jax.runtime.mesh import fetch
from wmpo_jax.runtime.progress import Progress, progress
from wmpo_jax.stages import improve
from wmpo_jax.stages.agents import PolicyFamily, policy_family
from wmpo_jax.stages.real import make_player
from wmpo_jax.stages.seeds import span
from wmpo_jax.stages.setting import Setting
from wmpo_jax.stages.sft import load_base_policy

MODES = ("greedy", "sampled")


class RealEvaluator:
    """Plays policies in reality from held-out starts, `batch_size` worlds at a time."""

    def __init__(
        self,
        setting: Setting,
        family: PolicyFamily,
        role: str = "evaluation",
        statistics: ActionStatistics | None = None,
    ):
        """`statistics` un-normalize the policy's actions; None means the demonstrations'."""
        section = setting.config.evaluate
        if section.episodes % section.batch_size:
            raise UserError(
                f"evaluate.episodes = {section.episodes} is not a multiple of "
                f"evaluate.batch_size = {section.batch_size}: change one of them."
            )
        self.seeds = setting.starts(role, 0, section.episodes)
        self._batches = self.seeds.reshape(-1, section.batch_size)
        self._setting = setting
        self._play = make_player(setting, family, statistics)

    def outcomes(self, params: Any, mode: str, bar: Progress | None = None) -> dict[str, Any]:
        """success bool [n], finish_step and goal int [n], invalid bool [n] of one policy."""
        keys = jax.random.split(self._setting.key(f"evaluate {mode}"), len(self._batches))
        parts = []
        for starts, key in zip(self._batches, keys, strict=True):
            greedy = mode == "greedy"
            trajectory = self._play(params, jnp.asarray(starts), key, greedy=greedy, videos=False)
            parts.append(
                fetch(
                    {
                        "success": trajectory.success_B,
                        "finish_step": trajectory.finish_step_B,
                        "goal": trajectory.instruction_id_B,
                        "invalid": trajectory.invalid_B,
                    }
                )
            )
            if bar:
                bar.advance(len(starts))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def video(self, params: Any, count: int) -> np.ndarray:
        """Frames [count, T, H, W, 3] of the first `count` starts, greedy."""
        starts = jnp.asarray(self._batches[0])
        if isinstance(self._setting.env, HostEnvironment):
            starts = starts[:count]  # compiled programs want the whole batch again
        trajectory = self._play(params, starts, jax.random.key(0), greedy=True)
        return fetch(trajectory.frames_BTHWC)[:count]


def run(setting: Setting) -> None:
    """Writes data/evaluation/results.npz, one row per episode, and the rates."""
    started = time.monotonic()
    section = setting.config.evaluate
    family = policy_family(setting.config, setting.env)
    policies = {
        "base": load_base_policy(setting, family),
        "wmpo": improve.load_policy(setting, family),
    }
    evaluator = RealEvaluator(setting, family)
    results: dict[str, np.ndarray] = {"seeds": evaluator.seeds}
    invalid = 0
    with progress(2 * len(policies) * section.episodes, 0, "evaluate") as bar:
        for name, params in policies.items():
            for mode in MODES:
                outcome = evaluator.outcomes(params, mode, bar)
                results[f"{name}_{mode}"] = outcome["success"]
                invalid += int(outcome["invalid"].sum())
    save_arrays(setting.workdir.data("evaluation") / "results.npz", results)
    _save_videos(setting, evaluator, policies)
    setting.workdir.ledger.append(
        "evaluate",
        "evaluation",
        episodes=2 * len(policies) * section.episodes,
        seeds=span(evaluator.seeds),
        used_for_training=False,
    )
    summary = summarize(results, section.primary)
    summary |= {"seed": setting.config.seed, "invalid": invalid, **setting.provenance()}
    setting.workdir.mark_done("evaluate", {"seconds": time.monotonic() - started, **summary})


def summarize(results: dict[str, np.ndarray], primary: str) -> dict[str, Any]:
    """Rates with Wilson intervals and paired differences wmpo - base, per mode."""
    policies: dict[str, Any] = {}
    for name in ("base", "wmpo"):
        policies[name] = {mode: rate(results[f"{name}_{mode}"]) for mode in MODES}
    paired = {}
    for mode in MODES:
        difference = paired_difference(results[f"base_{mode}"], results[f"wmpo_{mode}"])
        low, high = difference.low, difference.high
        paired[mode] = {"difference": difference.estimate, "low": low, "high": high}
    return {"policies": policies, "paired": paired, "primary": primary}


def rate(success: np.ndarray) -> dict[str, Any]:
    """successes, n, rate and its Wilson 95 % interval."""
    interval = wilson(int(success.sum()), len(success))
    return {
        "successes": int(success.sum()),
        "n": len(success),
        "rate": float(success.mean()),
        "wilson_low": interval.low,
        "wilson_high": interval.high,
    }


def _save_videos(setting: Setting, evaluator: RealEvaluator, policies: dict[str, Any]) -> None:
    """Base beside improved policy from the same starts, for the report."""
    count = setting.config.evaluate.videos
    videos = {name: evaluator.video(params, count) for name, params in policies.items()}
    captions = [f"start {seed}: base | WMPO" for seed in evaluator.seeds[:count]]
    save_arrays(
        setting.workdir.data("videos") / "base_improved.npz",
        {"left_BTHWC": videos["base"], "right_BTHWC": videos["wmpo"], "caption": captions},
    )
