"""How often an imported policy solves its benchmark: the number to compare with a paper's.

    python -m wmpo_jax.main --config=configs/libero.py:evaluate_imported \\
        --stages=evaluate_imported --config.evaluate_imported.folder=ckpt/policy

The folder is one that `convert import --kind=policy` made. Nothing is trained.
"""

from typing import Any

import jax.numpy as jnp

from wmpo_jax.assembly.seeds import span
from wmpo_jax.conversion.load import ImportedPolicy, load_policy, spread_over
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import save_arrays
from wmpo_jax.runtime.progress import progress, say
from wmpo_jax.stages.context import RunContext
from wmpo_jax.stages.evaluate import RealEvaluator
from wmpo_jax.stages.rates import by_task


def run(context: RunContext) -> dict[str, Any]:
    """Writes data/evaluate_imported/results.npz, one row per episode, and the rates.

    Raises:
      UserError: no such checkpoint or statistics, or actions of another length.
    """
    section, env = _section(context), context.env
    imported = load_policy(
        section.folder,
        unnorm_key=section.statistics or env.name,
        param_dtype=jnp.bfloat16,  # as released; nothing is trained
        place=spread_over(context.mesh),
        lanczos_resize=section.lanczos_resize,
        jpeg=section.jpeg,
    )
    _check_actions(context, imported)
    policy = imported.policy.with_instructions(env.instructions)
    evaluator = RealEvaluator(context, policy, statistics=imported.statistics)
    with progress(len(evaluator.seeds), 0, "evaluate_imported") as bar:
        outcome = evaluator.outcomes(imported.params, context.config.evaluate.primary, bar)
    save_arrays(
        context.workdir.data("evaluate_imported") / "results.npz",
        {"seeds": evaluator.seeds, **outcome},
    )
    context.workdir.ledger.append(
        "evaluate_imported",
        "evaluation of an imported policy",
        episodes=len(evaluator.seeds),
        seeds=span(evaluator.seeds),
        used_for_training=False,
    )
    result = by_task(outcome, env.instructions) | context.provenance()
    say(f"{env.name}: {result['overall']}")
    return result


def _check_actions(context: RunContext, imported: ImportedPolicy) -> None:
    actions, env = len(imported.statistics.q01), context.env
    if actions != env.action_dim:
        raise UserError(
            f"The policy in {context.config.evaluate_imported.folder} gives {actions} numbers per "
            f"action and {env.name} takes {env.action_dim}: choose another checkpoint or task."
        )


def _section(context: RunContext) -> Any:
    section = context.config.get("evaluate_imported")
    if section is None or not section.folder:
        raise UserError(
            "Stage evaluate_imported has no policy: use a config that has the section "
            "(configs/libero.py:evaluate_imported) and give --config.evaluate_imported.folder="
            "FOLDER, which `convert import --kind=policy` made."
        )
    return section
