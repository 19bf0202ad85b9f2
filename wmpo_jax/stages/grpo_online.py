"""The reference line: GRPO in the real environment with as many episodes as WMPO used in all.

    python -m wmpo_jax.main --config=configs/tiny.py --stages=grpo_online   # after a whole run

Play, rollouts and monitoring count; the demonstrations do not, as the base policy needs them too.
"""

from functools import partial
from typing import Any

import jax
import numpy as np

from wmpo_jax.algorithm.trajectory import Experience, experience
from wmpo_jax.assembly import agents
from wmpo_jax.assembly.seeds import BLOCK, span
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import save_arrays
from wmpo_jax.stages.context import RunContext
from wmpo_jax.stages.evaluate import MODES, RealEvaluator
from wmpo_jax.stages.rates import rate
from wmpo_jax.training import grpo

SPENT_ON = ("play", "rollouts", "monitor")  # names in the ledger; those of later rounds too


def run(context: RunContext) -> dict[str, Any]:
    """Writes checkpoints/grpo_online and its success rates."""
    section, trained = context.config.grpo_online, context.trained
    size = section.groups * context.config.improve.group_size
    budget = section.episodes or spent(context)
    if budget < size:
        raise UserError(
            f"grpo_online has {budget} episodes to spend and a batch takes {size}: lower "
            "grpo_online.groups, or set grpo_online.episodes."
        )
    config = agents.grpo_config(
        context.config, iterations=budget // size, groups=section.groups, attempts=1
    )

    play = context.player()

    def sample(params: Any, starts: np.ndarray, key: jax.Array) -> Experience:
        return experience(play(params, np.repeat(starts, config.group_size), key))

    state, params = grpo.optimize(
        context.loop_files("grpo_online"),
        context.mesh,
        trained.policy_params("sft"),
        trained.policy,
        sample,
        partial(_seeds, context),
        config,
        context.key("grpo_online"),
    )
    evaluator = RealEvaluator(context, trained.policy)
    success = {mode: evaluator.outcomes(params, mode)["success"] for mode in MODES}
    save_arrays(context.workdir.data("evaluation") / "grpo_online.npz", success)
    context.workdir.ledger.append(
        "grpo_online",
        "online GRPO",
        episodes=int(state.episodes),
        seeds=span(_seeds(context, 0, int(state.starts))),
    )
    return {
        "step": int(state.iteration),
        "best": {mode: rate(values) for mode, values in success.items()},
        "real_episodes": int(state.episodes),
    }


def spent(context: RunContext) -> int:
    """Real episodes that WMPO used beyond the demonstrations, by the ledger."""
    return sum(
        int(entry["episodes"])
        for entry in context.workdir.ledger.read()
        if entry["name"].rstrip("_0123456789") in SPENT_ON
    )


def _seeds(context: RunContext, first: int, count: int) -> np.ndarray:
    """The second half of the oracle's block: both train in the real environment."""
    return context.starts("oracle", BLOCK // 2 + first, count)
