"""How often an imported policy solves its benchmark: the number to compare with a paper's.

    python -m wmpo_jax.main --config=configs/libero.py:evaluate_imported --stages=evaluate_imported \\
        --config.evaluate_imported.folder=ckpt/policy

The folder is one that `convert import --kind=policy` made. Nothing is trained.
"""

import time
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from wmpo_jax.conversion.load import Policy, load_policy, spread_over
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import save_arrays
from wmpo_jax.runtime.progress import progress, say
from wmpo_jax.stages.agents import PolicyFamily
from wmpo_jax.stages.evaluate import RealEvaluator, rate
from wmpo_jax.stages.seeds import span
from wmpo_jax.stages.setting import Setting


def run(setting: Setting) -> None:
    """Writes data/evaluate_imported/results.npz, one row per episode, and the rates over all and by task.

    Raises:
      UserError: no such checkpoint or statistics, or actions of another length.
    """
    started = time.monotonic()
    section, env = _section(setting), setting.env
    policy = load_policy(
        section.folder,
        unnorm_key=section.statistics or env.name,
        param_dtype=jnp.bfloat16,  # as released; nothing is trained
        place=spread_over(setting.mesh),
        lanczos_resize=section.lanczos_resize,
        jpeg=section.jpeg,
    )
    family = as_family(setting, policy)
    evaluator = RealEvaluator(setting, family, statistics=policy.statistics)
    with progress(len(evaluator.seeds), 0, "evaluate_imported") as bar:
        outcome = evaluator.outcomes(policy.params, setting.config.evaluate.primary, bar)
    save_arrays(
        setting.workdir.data("evaluate_imported") / "results.npz",
        {"seeds": evaluator.seeds, **outcome},
    )
    setting.workdir.ledger.append(
        "evaluate_imported",
        "evaluation of an imported policy",
        episodes=len(evaluator.seeds),
        seeds=span(evaluator.seeds),
        used_for_training=False,
    )
    result = _rates(setting, outcome) | setting.provenance()
    setting.workdir.mark_done(
        "evaluate_imported", {"seconds": time.monotonic() - started, **result}
    )
    say(f"{env.name}: {result['overall']}")


def as_family(setting: Setting, policy: Policy) -> PolicyFamily:
    """An imported policy in the role of ours, told the task's instructions."""
    env = setting.env
    prompts_GL, lengths_G = policy.tokenizer.encode_batch(env.instructions)
    family = PolicyFamily(
        build=lambda: nnx.merge(policy.graphdef, policy.params),
        graphdef=policy.graphdef,
        transform=policy.transform,
        prompts_GL=prompts_GL,
        lengths_G=lengths_G,
        bins=setting.config.evaluate_imported.bins,
    )
    actions = len(policy.statistics.q01)
    if actions != env.action_dim:
        raise UserError(
            f"The policy in {setting.config.evaluate_imported.folder} gives {actions} numbers per action "
            f"and {env.name} takes {env.action_dim}: choose another checkpoint or task."
        )
    return family


def _section(setting: Setting) -> Any:
    section = setting.config.get("evaluate_imported")
    if section is None or not section.folder:
        raise UserError(
            "Stage evaluate_imported has no policy: use --config=configs/libero.py:evaluate_imported and give "
            "--config.evaluate_imported.folder=FOLDER, which `convert import --kind=policy` made."
        )
    return section


def _rates(setting: Setting, outcome: dict[str, np.ndarray]) -> dict[str, Any]:
    instruction_id_B = outcome["goal"]
    by_task = {
        instruction: rate(outcome["success"][instruction_id_B == goal])
        for goal, instruction in enumerate(setting.env.instructions)
        if (instruction_id_B == goal).any()
    }
    return {
        "overall": rate(outcome["success"]),
        "by_task": by_task,
        "invalid": int(outcome["invalid"].sum()),
    }
