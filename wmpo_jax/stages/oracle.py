"""The oracle check: GRPO in the true environment with unlimited episodes.

    python -m wmpo_jax.main --config=configs/tiny.py --stages=demos,sft,oracle

If this does not lift the base policy, no world model can: change the task or the base policy first.
"""

from typing import Any

import jax
import numpy as np

from wmpo_jax.algorithm.trajectory import Experience, experience
from wmpo_jax.assembly import agents
from wmpo_jax.assembly.seeds import span
from wmpo_jax.runtime.progress import say
from wmpo_jax.stages.context import RunContext
from wmpo_jax.stages.evaluate import MODES, RealEvaluator
from wmpo_jax.stages.rates import rate
from wmpo_jax.training import grpo


def run(context: RunContext) -> dict[str, Any]:
    """Writes the success rates before and after, and whether the gain reaches oracle.min_gain."""
    section, trained = context.config.oracle, context.trained
    config = agents.grpo_config(
        context.config, iterations=section.iterations, groups=section.groups
    )
    base = trained.policy_params("sft")

    play = context.player()

    def sample(params: Any, starts: np.ndarray, key: jax.Array) -> Experience:
        return experience(play(params, np.repeat(starts, config.group_size), key))

    def starts(first: int, count: int) -> np.ndarray:
        return context.starts("oracle", first, count)

    state, improved = grpo.optimize(
        context.loop_files("oracle"),
        context.mesh,
        base,
        trained.policy,
        sample,
        starts,
        config,
        context.key("oracle"),
    )
    evaluator = RealEvaluator(context, trained.policy)
    rates: dict[str, Any] = {}
    for name, params in (("base", base), ("oracle", improved)):
        rates[name] = {m: rate(evaluator.outcomes(params, m)["success"]) for m in MODES}
    primary = context.config.evaluate.primary
    gain = rates["oracle"][primary]["rate"] - rates["base"][primary]["rate"]
    verdict = "passed" if gain >= section.min_gain else "FAILED"
    say(f"oracle check: gain {gain:+.3f} (bound {section.min_gain:.2f}) {verdict}")
    seeds = context.starts("oracle", 0, int(state.starts))
    context.workdir.ledger.append(
        "oracle",
        "oracle check (never used for the improved policy)",
        episodes=int(state.episodes),
        seeds=span(seeds),
        used_for_training=False,
    )
    return {
        "step": int(state.iteration),
        "rates": rates,
        "gain": gain,
        "passed": gain >= section.min_gain,
        "real_episodes": int(state.episodes),
    }
