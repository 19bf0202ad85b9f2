"""Which rung between reality and imagination breaks? Run by name, on whatever has been trained."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wmpo_jax.assembly import diagnosis
from wmpo_jax.assembly.seeds import span
from wmpo_jax.envs.protocol import HostEnvironment, Witnessed
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.mesh import fetch, replicate
from wmpo_jax.runtime.progress import say
from wmpo_jax.stages.context import RunContext

BATCH = 128
POLICIES = {"base": "sft", "improved": "improve"}


def run(context: RunContext) -> dict[str, Any]:
    """Climbs the ladder with the base policy, and with the improved one where there is one.

    Raises:
      UserError: the environment does not say what its pixels show.
    """
    if isinstance(context.env, HostEnvironment) or not isinstance(context.env, Witnessed):
        raise UserError(
            f"Stage diagnose needs an environment that says what its pixels show, and "
            f"{context.env.name} does not: choose a tabletop task."
        )
    reports: dict[str, Any] = {}
    for policy, stage in POLICIES.items():
        if context.workdir.done(stage):
            reports[policy] = _climb(context, stage)
            _print(policy, reports[policy])
    return {"policies": reports}


def _climb(context: RunContext, stage: str) -> dict[str, Any]:
    env = context.env
    assert not isinstance(env, HostEnvironment) and isinstance(env, Witnessed)
    seeds = context.starts("gates", 0, context.config.gates.episodes)
    parts = replicate(context.mesh, context.trained.imagined_parts())
    climb = diagnosis.climber(context.trained, env, context.real.num_chunks, context.mesh)
    params = context.trained.policy_params(stage)
    played = []
    for start in range(0, len(seeds), BATCH):
        key = jax.random.fold_in(context.key("diagnose"), start)
        rows = np.arange(start, start + BATCH).clip(max=len(seeds) - 1)
        whole = fetch(climb(params, parts, jnp.asarray(seeds[rows]), key))
        played.append(jax.tree.map(lambda leaf: leaf[: len(seeds) - start], whole))  # noqa: B023
    ladder = jax.tree.map(lambda *xs: np.concatenate(xs), *played)
    context.workdir.ledger.append(
        "diagnose",
        f"rungs of the policy of {stage}",
        episodes=3 * len(seeds),
        seeds=span(seeds),
        used_for_training=False,
    )
    return diagnosis.report(ladder, env.geom_names)


def _print(policy: str, report: dict[str, Any]) -> None:
    for name, rung in report["rungs"].items():
        line = f"{policy}, {name}: {100 * rung['rate']:.1f} %"
        if "change" in rung:
            points = {key: 100 * value for key, value in rung["change"].items()}
            line += ", {estimate:+.1f} points [{low:+.1f}, {high:+.1f}]".format(**points)
        say(line)
