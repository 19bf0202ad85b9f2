"""The baseline without a world model: GRPO on the same real rollouts that aligned ours.

    python -m wmpo_jax.main --config=configs/tiny.py --stages=grpo_on_rollouts  # after a whole run

Every entry of `grpo_on_rollouts.settings` starts from the base policy and sees exactly those
episodes.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wmpo_jax.agents.policy import frozen_of, joined, trained_of
from wmpo_jax.algorithm.grpo import mixed_groups
from wmpo_jax.algorithm.trajectory import Experience, Trajectory, experience, select
from wmpo_jax.assembly import agents
from wmpo_jax.report.intervals import paired_difference
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import load_arrays, save_arrays
from wmpo_jax.runtime.mesh import replicate
from wmpo_jax.stages.context import RunContext
from wmpo_jax.stages.evaluate import MODES, RealEvaluator, rate
from wmpo_jax.training import grpo


def run(context: RunContext) -> dict[str, Any]:
    """Writes the rates of every entry, and the best one against WMPO on the same starts."""
    policy = context.trained.policy
    base = context.trained.policy_params("sft")
    rollouts, groups = _mixed_rollouts(context)
    evaluator = RealEvaluator(context, policy)
    results: dict[str, np.ndarray] = {}
    table = []
    for number, (epochs, learning_rate) in enumerate(context.config.grpo_on_rollouts.settings):
        config = agents.grpo_config(
            context.config,
            groups=groups,
            group_size=context.config.collect.group_size,
            epochs=epochs,
            learning_rate=learning_rate,
        )
        update = jax.jit(grpo.make_update(policy, config, context.mesh))
        start, frozen = trained_of(base), frozen_of(base)
        params, _, _ = update(
            start,
            config.optimizer().init(start),
            rollouts,
            jnp.ones(len(rollouts.success_B)),
            jax.random.fold_in(context.key("grpo_on_rollouts"), number),
            frozen,
        )
        params = joined(params, frozen)
        row: dict[str, Any] = {"epochs": epochs, "learning_rate": learning_rate}
        for mode in MODES:
            success = evaluator.outcomes(params, mode)["success"]
            results[f"{number}_{mode}"] = success
            row[mode] = rate(success)
        table.append(row)
    save_arrays(context.workdir.data("evaluation") / "grpo_on_rollouts.npz", results)
    return _against_wmpo(context, table, results)


def _mixed_rollouts(context: RunContext) -> tuple[Experience, int]:
    """The P rollouts of stage collect, without the groups that carry no gradient."""
    size = context.config.collect.group_size
    arrays = context.episodes("rollouts", "collect")
    trajectory = Trajectory(**{name: jnp.asarray(values) for name, values in arrays.items()})
    mixed = np.flatnonzero(mixed_groups(trajectory.success_B, size))
    if len(mixed) == 0:
        raise UserError(
            f"No group of {len(trajectory.success_B)} rollouts has both successes and failures: "
            "GRPO has nothing to learn from them, raise collect.starts in a new workdir."
        )
    rows = (mixed[:, None] * size + np.arange(size)).reshape(-1)
    chosen = select(experience(trajectory), jnp.asarray(rows))
    return replicate(context.mesh, chosen), len(mixed)


def _against_wmpo(context: RunContext, table: list, results: dict) -> dict[str, Any]:
    """The best entry by the primary metric, chosen on the very evaluation: a strong opponent."""
    primary = context.config.evaluate.primary
    best = int(np.argmax([row[primary]["rate"] for row in table]))
    ours = load_arrays(context.workdir.data("evaluation") / "results.npz", "evaluate")
    paired = {}
    for mode in MODES:
        difference = paired_difference(results[f"{best}_{mode}"], ours[f"wmpo_{mode}"])
        low, high = difference.low, difference.high
        paired[mode] = {"difference": difference.estimate, "low": low, "high": high}
    return {
        "settings": table,
        "best": table[best],
        "best_setting": best,
        "wmpo_minus_best": paired,
    }
