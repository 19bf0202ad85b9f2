"""Stage 7: the real success rate of base and improved policy, on held-out starts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wmpo_jax.agents.policy import Policy
from wmpo_jax.assembly.seeds import span
from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.envs.protocol import HostEnvironment
from wmpo_jax.report.intervals import paired_difference
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import save_arrays
from wmpo_jax.runtime.mesh import fetch
from wmpo_jax.runtime.progress import Progress, progress
from wmpo_jax.runtime.schema import REMOTE
from wmpo_jax.stages import evaluate_remote
from wmpo_jax.stages.context import RunContext
from wmpo_jax.stages.rates import rate

MODES = ("greedy", "sampled")


class RealEvaluator:
    """Plays policies in the real environment from held-out starts, `batch_size` at a time."""

    def __init__(
        self,
        context: RunContext,
        policy: Policy,
        role: str = "evaluation",
        statistics: ActionStatistics | None = None,
    ):
        """`statistics` un-normalize the policy's actions; None means the demonstrations'."""
        section = context.config.evaluate
        if section.episodes % section.batch_size:
            raise UserError(
                f"evaluate.episodes = {section.episodes} is not a multiple of "
                f"evaluate.batch_size = {section.batch_size}: change one of them."
            )
        self.seeds = context.starts(role, 0, section.episodes)
        self._batches = self.seeds.reshape(-1, section.batch_size)
        self._context = context
        real, temperature = context.real, context.config.policy.temperature
        self._play = real.player(policy, temperature, statistics or context.statistics)

    def outcomes(self, params: Any, mode: str, bar: Progress | None = None) -> dict[str, Any]:
        """Of one policy: success, invalid bool [n]; finish_step, instruction_id int [n]."""
        keys = jax.random.split(self._context.key(f"evaluate {mode}"), len(self._batches))
        parts = []
        for starts, key in zip(self._batches, keys, strict=True):
            greedy = mode == "greedy"
            trajectory = self._play(params, jnp.asarray(starts), key, greedy=greedy, videos=False)
            parts.append(
                fetch(
                    {
                        "success": trajectory.success_B,
                        "finish_step": trajectory.finish_step_B,
                        "instruction_id": trajectory.instruction_id_B,
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
        if isinstance(self._context.env, HostEnvironment):
            starts = starts[:count]  # compiled programs want the whole batch again
        trajectory = self._play(params, starts, jax.random.key(0), greedy=True)
        return fetch(trajectory.frames_BTHWC)[:count]


def run(context: RunContext) -> dict[str, Any]:
    """Writes data/evaluation/results.npz, one row per episode, and the rates."""
    if context.config.task == REMOTE:
        return evaluate_remote.run(context)
    section, trained = context.config.evaluate, context.trained
    policies = {
        "base": trained.policy_params("sft"),
        "wmpo": context.last_round.trained.policy_params("improve"),
    }
    evaluator = RealEvaluator(context, trained.policy)
    results: dict[str, np.ndarray] = {"seeds": evaluator.seeds}
    invalid = 0
    with progress(2 * len(policies) * section.episodes, 0, "evaluate") as bar:
        for name, params in policies.items():
            for mode in MODES:
                outcome = evaluator.outcomes(params, mode, bar)
                results[f"{name}_{mode}"] = outcome["success"]
                invalid += int(outcome["invalid"].sum())
    save_arrays(context.workdir.data("evaluation") / "results.npz", results)
    _save_videos(context, evaluator, policies)
    context.workdir.ledger.append(
        "evaluate",
        "evaluation",
        episodes=2 * len(policies) * section.episodes,
        seeds=span(evaluator.seeds),
        used_for_training=False,
    )
    summary = summarize(results, section.primary)
    return summary | {"seed": context.config.seed, "invalid": invalid, **context.provenance()}


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


def _save_videos(context: RunContext, evaluator: RealEvaluator, policies: dict[str, Any]) -> None:
    """Base beside improved policy from the same starts, for the report."""
    count = context.config.evaluate.videos
    videos = {name: evaluator.video(params, count) for name, params in policies.items()}
    captions = [f"start {seed}: base | WMPO" for seed in evaluator.seeds[:count]]
    save_arrays(
        context.workdir.data("videos") / "base_improved.npz",
        {"left_BTHWC": videos["base"], "right_BTHWC": videos["wmpo"], "caption": captions},
    )
