"""The oracle check: GRPO in the true environment with unlimited episodes.

    python -m wmpo_jax.main --config=configs/tiny.py --stages=demos,sft,oracle

If this does not lift the base policy, no world model can: change the task or the base policy first.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wmpo_jax.runtime.progress import say
from wmpo_jax.stages import grpo_loop
from wmpo_jax.stages.agents import policy_family
from wmpo_jax.stages.evaluate import MODES, RealEvaluator, rate
from wmpo_jax.stages.grpo_loop import Recipe
from wmpo_jax.stages.real import make_player
from wmpo_jax.stages.seeds import span
from wmpo_jax.stages.setting import Setting
from wmpo_jax.stages.sft import load_base_policy


def run(setting: Setting) -> None:
    """Writes the success rates before and after, and whether the gain reaches oracle.min_gain."""
    started = time.monotonic()
    section = setting.config.oracle
    recipe = Recipe.from_config(setting, iterations=section.iterations, groups=section.groups)
    family = policy_family(setting.config, setting.env)
    base = load_base_policy(setting, family)

    def starts(batch: int) -> jax.Array:
        seeds = setting.starts("oracle", batch * recipe.groups, recipe.groups)
        return jnp.asarray(np.repeat(seeds, recipe.group_size))

    sample = make_player(setting, family)
    state, improved = grpo_loop.optimize("oracle", base, family, sample, starts, recipe, setting)
    evaluator = RealEvaluator(setting, family)
    rates: dict[str, Any] = {}
    for name, params in (("base", base), ("oracle", improved)):
        rates[name] = {m: rate(evaluator.outcomes(params, m)["success"]) for m in MODES}
    primary = setting.config.evaluate.primary
    gain = rates["oracle"][primary]["rate"] - rates["base"][primary]["rate"]
    verdict = "passed" if gain >= section.min_gain else "FAILED"
    say(f"oracle check: gain {gain:+.3f} (bound {section.min_gain:.2f}) {verdict}")
    seeds = setting.starts("oracle", 0, int(state.batches) * recipe.groups)
    setting.workdir.ledger.append(
        "oracle",
        "oracle check (never used for the improved policy)",
        episodes=int(state.episodes),
        seeds=span(seeds),
        used_for_training=False,
    )
    setting.workdir.mark_done(
        "oracle",
        {
            "seconds": time.monotonic() - started,
            "rates": rates,
            "gain": gain,
            "passed": gain >= section.min_gain,
            "real_episodes": int(state.episodes),
        },
    )
