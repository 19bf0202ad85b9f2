"""The stages in the order of the paper; each is skipped when its result is already there."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from wmpo_jax.assembly.environment import make_task
from wmpo_jax.runtime import preemption
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.mesh import check_even
from wmpo_jax.runtime.progress import say
from wmpo_jax.runtime.workdir import Workdir
from wmpo_jax.stages import (
    autoencoder,
    collect,
    demos,
    diagnose,
    evaluate,
    evaluate_imported,
    export,
    gates,
    grpo_on_rollouts,
    improve,
    oracle,
    page,
    reward,
    sft,
    world_model,
)
from wmpo_jax.stages.context import RunContext

Stage = Callable[[RunContext], dict[str, Any]]

CYCLE: dict[str, Stage] = {
    "demos": demos.run,
    "sft": sft.run,
    "collect": collect.run,
    "autoencoder": autoencoder.run,
    "world_model": world_model.run,
    "reward": reward.run,
    "gates": gates.run,
    "improve": improve.run,
    "gates_after": gates.run_after,
    "evaluate": evaluate.run,
}
# Run only when named: they need the true environment beyond the budget, or serve other ends.
OTHERS: dict[str, Stage] = {
    "diagnose": diagnose.run,
    "oracle": oracle.run,
    "grpo_on_rollouts": grpo_on_rollouts.run,
    "evaluate_imported": evaluate_imported.run,
    "export": export.run,
}
STAGES = CYCLE | OTHERS
REPORT = "report"
REINFORCED = {"improve", "oracle", "grpo_on_rollouts"}  # whose update is the one of config.improve
# What can be trained from `config.data.source` alone; the others want an environment.
ON_DISK = ("demos", "sft", "autoencoder", "world_model")


def run_all(config: ConfigDict, workdir: Workdir, mesh: Mesh, names: Sequence[str] = ()) -> None:
    """Runs the stages `names` (all of the cycle by default), then writes the report.

    With `config.data.source` but without a task the default is ON_DISK.

    Raises:
      UserError: an unknown stage, or whatever a stage finds wrong.
      Preempted: a stage was asked to stop and has saved.
    """
    names = chosen(config, names)
    _check_batches(config, mesh, names)
    context = RunContext(config, workdir, mesh)
    for name in names:
        if name == REPORT:
            continue
        if workdir.done(name):
            say(f"{name}: done before, skipped")
            continue
        if preemption.stop_requested():
            raise preemption.stopped(name, 0)
        started = time.monotonic()
        result = STAGES[name](context)
        step = result.pop("step", None)
        workdir.mark_done(name, {"seconds": time.monotonic() - started, **result}, step=step)
    if REPORT in names:
        page.run(context)


def check(config: ConfigDict, names: Sequence[str] = ()) -> None:
    """Before a workdir is made, which would then belong to a mistake: stages, task, its options.

    Raises:
      UserError: an unknown stage, task or option, or a simulator that is not installed.
    """
    running = chosen(config, names)
    if not config.task:
        return
    task = make_task(config)
    chunks, size = task.horizon // task.chunk, config.improve.get("micro_chunks", 0)
    if size and chunks % size and REINFORCED & set(running):
        raise UserError(
            f"improve.micro_chunks = {size} does not divide the {chunks} decisions of an episode "
            f"of {task.name}: choose a divisor of {chunks}, or 0 for all of them at once."
        )


def chosen(config: ConfigDict, names: Sequence[str]) -> list[str]:
    """The stages that will run: `names`, or what this config runs by default."""
    on_disk = bool(config.get("data") and config.data.source) and not config.task
    names = list(names) or ([*ON_DISK, REPORT] if on_disk else [*CYCLE, REPORT])
    unknown = [name for name in names if name not in STAGES and name != REPORT]
    if unknown:
        raise UserError(
            f"There is no stage {unknown[0]}; choose from {', '.join([*STAGES, REPORT])}."
        )
    others = [name for name in names if on_disk and name not in (*ON_DISK, "collect", REPORT)]
    if others:
        raise UserError(
            f"Stage {others[0]} cannot use config.data.source alone: name a task whose "
            f"environment it can act in, or choose from {', '.join(ON_DISK)}, collect."
        )
    return names


def _check_batches(config: ConfigDict, mesh: Mesh, names: Sequence[str]) -> None:
    """Before the first stage: every batch that these stages train on can be spread."""
    for name in ("sft", "autoencoder", "world_model", "reward"):
        if name in names:
            check_even(mesh, config[name].batch_size, f"{name}.batch_size")
    for name in ("improve", "oracle"):
        if name in names:
            group = config.improve.group_size
            check_even(mesh, config[name].groups * group, f"{name}.groups x group_size")
    if REINFORCED & set(names):
        check_even(mesh, config.improve.minibatch, "improve.minibatch")
