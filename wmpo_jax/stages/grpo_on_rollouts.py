"""The baseline without a world model: GRPO on the same real rollouts that aligned ours.

    python -m wmpo_jax.main --config=configs/tiny.py --stages=grpo_on_rollouts     # after a whole run

Every setting of `grpo_on_rollouts.settings` starts from the base policy and sees exactly those episodes.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wmpo_jax.algorithm.grpo import mixed_groups
from wmpo_jax.algorithm.trajectory import Trajectory, select
from wmpo_jax.report.intervals import paired_difference
from wmpo_jax.runtime.files import load_arrays, save_arrays
from wmpo_jax.runtime.mesh import replicate
from wmpo_jax.stages import grpo_loop, training
from wmpo_jax.stages.agents import policy_family
from wmpo_jax.stages.evaluate import MODES, RealEvaluator, rate
from wmpo_jax.stages.grpo_loop import Recipe
from wmpo_jax.stages.setting import Setting
from wmpo_jax.stages.sft import load_base_policy


def run(setting: Setting) -> None:
    """Writes the rates of every setting, and the best one against WMPO on the same starts."""
    started = time.monotonic()
    family = policy_family(setting.config, setting.env)
    base = load_base_policy(setting, family)
    rollouts, groups = _mixed_rollouts(setting)
    evaluator = RealEvaluator(setting, family)
    results: dict[str, np.ndarray] = {}
    table = []
    for number, (epochs, learning_rate) in enumerate(setting.config.grpo_on_rollouts.settings):
        recipe = Recipe.from_config(
            setting,
            groups=groups,
            group_size=setting.config.collect.group_size,
            epochs=epochs,
            learning_rate=learning_rate,
        )
        update = jax.jit(grpo_loop.make_update(family, recipe, setting.mesh))
        start, frozen = training.trained_of(base), training.frozen_of(base)
        params, _, _ = update(
            start,
            recipe.optimizer().init(start),
            rollouts,
            jnp.ones(len(rollouts.success_B)),
            jax.random.fold_in(setting.key("grpo_on_rollouts"), number),
            frozen,
        )
        params = training.joined(params, frozen)
        row: dict[str, Any] = {"epochs": epochs, "learning_rate": learning_rate}
        for mode in MODES:
            success = evaluator.outcomes(params, mode)["success"]
            results[f"{number}_{mode}"] = success
            row[mode] = rate(success)
        table.append(row)
    save_arrays(setting.workdir.data("evaluation") / "grpo_on_rollouts.npz", results)
    report = _against_wmpo(setting, table, results)
    setting.workdir.mark_done("grpo_on_rollouts", {"seconds": time.monotonic() - started, **report})


def _mixed_rollouts(setting: Setting) -> tuple[Trajectory, int]:
    """The P rollouts of stage collect, without the groups that carry no gradient."""
    size = setting.config.collect.group_size
    arrays = setting.episodes("rollouts", "collect")
    trajectory = Trajectory(**{name: jnp.asarray(values) for name, values in arrays.items()})
    mixed = np.flatnonzero(mixed_groups(trajectory.success_B, size))
    rows = (mixed[:, None] * size + np.arange(size)).reshape(-1)
    return replicate(setting.mesh, select(trajectory, jnp.asarray(rows))), len(mixed)


def _against_wmpo(setting: Setting, table: list, results: dict) -> dict[str, Any]:
    """The best setting by the primary metric, chosen on the very evaluation: a strong opponent."""
    primary = setting.config.evaluate.primary
    best = int(np.argmax([row[primary]["rate"] for row in table]))
    ours = load_arrays(setting.workdir.data("evaluation") / "results.npz", "evaluate")
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
