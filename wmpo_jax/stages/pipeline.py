"""The stages in the order of the paper; each is skipped when its result is already there."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from wmpo_jax.assembly.environment import make_task
from wmpo_jax.assembly.trained import ROUND_STAGES, round_name, rounds_of
from wmpo_jax.runtime import metric_sinks, preemption
from wmpo_jax.runtime.errors import DamagedEnd, UserError
from wmpo_jax.runtime.mesh import check_even
from wmpo_jax.runtime.progress import say, warn
from wmpo_jax.runtime.schema import MOST_ROUNDS, REMOTE
from wmpo_jax.runtime.workdir import Workdir
from wmpo_jax.stages import (
    autoencoder,
    baselines,
    collect,
    demos,
    diagnose,
    evaluate,
    evaluate_imported,
    export,
    gates,
    grpo_online,
    hub_revisions,
    improve,
    oracle,
    page,
    reward,
    sft,
    world_model,
)
from wmpo_jax.stages.context import RunContext

Stage = Callable[[RunContext], dict[str, Any]]


def _in_round(stage: Stage, number: int, context: RunContext) -> dict[str, Any]:
    return stage(context.in_round(number))


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
    "filtered_bc": baselines.run_filtered_bc,
    "dpo": baselines.run_dpo,
    "grpo_on_rollouts": baselines.run_grpo_on_rollouts,
    "grpo_online": grpo_online.run,
    "evaluate_imported": evaluate_imported.run,
    "export": export.run,
}
# What the lifelong loop repeats: collect_2, world_model_2, reward_2, improve_2, collect_3, ...
ROUNDS: dict[str, Stage] = {
    round_name(stage, number): functools.partial(_in_round, CYCLE[stage], number)
    for number in range(2, MOST_ROUNDS + 1)
    for stage in ROUND_STAGES
}
STAGES = CYCLE | OTHERS | ROUNDS
REPORT = "report"
# Whose update is the one of config.improve.
REINFORCED = {"improve", "oracle", "grpo_on_rollouts", "grpo_online"}
IMAGINING = {"reward", "gates", "improve", "gates_after"}  # success is the classifier's
# What can be trained from `config.data.source` alone; the others want an environment.
ON_DISK = ("demos", "sft", "autoencoder", "world_model")
WITH_A_SERVED_POLICY = ("evaluate",)  # whose weights are elsewhere


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
    hub_revisions.settle(config, workdir)
    for name in names:
        if name == REPORT:
            continue
        if workdir.done(name):
            say(f"{name}: done before, skipped")
            continue
        _complete(name, context)
    if REPORT in names:
        page.run(context)


def _complete(name: str, context: RunContext, again: frozenset[str] = frozenset()) -> None:
    """Runs a stage to its end.

    An earlier one whose last checkpoint is damaged goes on from the one before it, once, which
    gives the same parameters: those that the stages after it have used.
    """
    if preemption.stop_requested():
        raise preemption.stopped(name, 0)
    started = time.monotonic()
    try:
        result = STAGES[name](context)
    except DamagedEnd as damage:
        if damage.stage in again:
            raise
        warn(f"{damage.reason}: stage {damage.stage} is repeated from its checkpoint {damage.step}")
        context.workdir.forget(damage.stage)
        again |= {damage.stage}
        _complete(damage.stage, context, again)
        _complete(name, context, again)
        return
    step = result.pop("step", None)
    hub_revisions.record(context.workdir)
    context.workdir.mark_done(name, {"seconds": time.monotonic() - started, **result}, step=step)


def check(config: ConfigDict, names: Sequence[str] = ()) -> None:
    """Before a workdir is made, which would then belong to a mistake: stages, task, its options.

    Raises:
      UserError: an unknown stage, task, option or metric writer, or a simulator that is not
        installed.
    """
    running = chosen(config, names)
    metric_sinks.check(config.get("writers", ""))
    if not config.task:
        return
    task = make_task(config)
    chunks, size = task.horizon // task.chunk, config.improve.get("micro_chunks", 0)
    if size and chunks % size and REINFORCED & set(running):
        raise UserError(
            f"improve.micro_chunks = {size} does not divide the {chunks} decisions of an episode "
            f"of {task.name}: choose a divisor of {chunks}, or 0 for all of them at once."
        )
    last = (
        config.reward.min_step + config.reward.window - 1
    )  # frame of the first window that counts
    if last > task.horizon and IMAGINING & set(running):
        raise UserError(
            f"With reward.min_step = {config.reward.min_step} and reward.window = "
            f"{config.reward.window} no imagined success counts before action {last}, and an "
            f"episode of {task.name} has {task.horizon}: lower reward.min_step."
        )


def chosen(config: ConfigDict, names: Sequence[str]) -> list[str]:
    """The stages that will run: `names`, or what this config runs by default."""
    on_disk = bool(config.get("data") and config.data.source) and not config.task
    served = config.task == REMOTE
    usual = ON_DISK if on_disk else cycle(config)
    names = list(names) or list(WITH_A_SERVED_POLICY if served else [*usual, REPORT])
    unknown = [name for name in names if name not in STAGES and name != REPORT]
    if unknown:
        raise UserError(
            f"There is no stage {unknown[0] or 'without a name'}; choose from "
            f"{', '.join([*CYCLE, *OTHERS, REPORT])}."
        )
    untrained = [name for name in names if served and name not in WITH_A_SERVED_POLICY]
    if untrained:
        raise UserError(
            f"Stage {untrained[0]} needs weights, and config.task = remote has a served policy: "
            f"choose {', '.join(WITH_A_SERVED_POLICY)}."
        )
    others = [name for name in names if on_disk and name not in (*ON_DISK, "collect", REPORT)]
    if others:
        raise UserError(
            f"Stage {others[0]} cannot use config.data.source alone: name a task whose "
            f"environment it can act in, or choose from {', '.join(ON_DISK)}, collect."
        )
    return names


def cycle(config: ConfigDict) -> list[str]:
    """The stages of CYCLE, with what later rounds of the lifelong loop repeat behind `improve`."""
    rounds = range(2, rounds_of(config) + 1)
    later = [round_name(stage, number) for number in rounds for stage in ROUND_STAGES]
    place = list(CYCLE).index("improve") + 1
    return [*list(CYCLE)[:place], *later, *list(CYCLE)[place:]]


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
