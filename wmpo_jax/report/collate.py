"""Several training seeds as one result: a table in Markdown and every episode as a row of CSV.

    python -m wmpo_jax.report.collate docs/results/press runs/press_0 runs/press_1 runs/press_2

writes docs/results/press.md and docs/results/press.csv.
"""

from wmpo_jax.runtime import interrupts

if __name__ == "__main__":  # before anything heavy is imported
    interrupts.exit_at_once()

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wmpo_jax.report.intervals import Interval, over_seeds, wilson
from wmpo_jax.report.record import CYCLE, RunRecord, first_name, read_run, understood
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import atomic_write, load_arrays
from wmpo_jax.runtime.paths import resolve

MODES = ("greedy", "sampled")
# Columns about imagination -> names in the results of stages gates and gates_after.
TRUST = {
    "real rate": "real_rate",
    "imagined rate": "imagined_rate",
    "closed loop": "free_imagined_rate",
    "agreement": "agreement",
    "precision": "precision",
    "recall": "recall",
}


def collate(target: Path, workdirs: Sequence[Path]) -> None:
    """Writes `<target>.md` and `<target>.csv` from finished workdirs, one per training seed.

    Raises:
      UserError: a workdir is missing or not evaluated, or two of them have the same seed.
    """
    with understood(workdirs):
        records = [read_run(workdir) for workdir in workdirs]
        for record in records:
            if "evaluate" not in record.stages:
                raise UserError(
                    f"The run {record.name} has not been evaluated: run its stage evaluate."
                )
        seeds = [record.config["seed"] for record in records]
        if len(set(seeds)) < len(seeds):
            raise UserError(f"The runs have the seeds {seeds}: give runs of different config.seed.")
        outcomes = [_outcomes(workdir) for workdir in workdirs]
        rows, page = _rows(seeds, outcomes), _page(target, records, outcomes)
    atomic_write(target.with_suffix(".csv"), rows.encode())
    atomic_write(target.with_suffix(".md"), page.encode())


def _outcomes(workdir: Path) -> dict[str, np.ndarray]:
    """Per-episode results, with the best setting of GRPO on the rollouts where it was run."""
    found = load_arrays(workdir / "data" / "evaluation" / "results.npz", "evaluate")
    rollouts = workdir / "data" / "evaluation" / "grpo_on_rollouts.npz"
    if rollouts.exists():
        best = read_run(workdir).stages["grpo_on_rollouts"]["best_setting"]
        arrays = load_arrays(rollouts, "grpo_on_rollouts")
        found |= {f"grpo_on_rollouts_{mode}": arrays[f"{best}_{mode}"] for mode in MODES}
    return found


def _rows(seeds: Sequence[int], outcomes: Sequence[dict[str, np.ndarray]]) -> str:
    names = [name for name in outcomes[0] if name != "seeds"]
    lines = [",".join(["training_seed", "start_seed", *names])]
    for seed, arrays in zip(seeds, outcomes, strict=True):
        for row, start in enumerate(arrays["seeds"]):
            values = [str(int(arrays[name][row])) for name in names]
            lines.append(",".join([str(seed), str(int(start)), *values]))
    return "\n".join(lines) + "\n"


def _page(
    target: Path, records: Sequence[RunRecord], outcomes: Sequence[dict[str, np.ndarray]]
) -> str:
    primary = records[0].stages["evaluate"]["primary"]
    task = records[0].config["task"]
    lines = [
        f"# {task}: {len(records)} training seed(s)",
        "",
        f"Primary metric, declared in the config: {primary}. Success on held-out starts in MJX; "
        "brackets are 95 % intervals (Wilson for rates).",
        "",
        "| seed | mode | base | WMPO | GRPO on the rollouts | n | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for record, arrays in zip(records, outcomes, strict=True):
        minutes = sum(stage.get("seconds", 0.0) for stage in _cycle(record)) / 60
        for mode in MODES:
            cells = [
                _rate(arrays.get(f"{name}_{mode}")) for name in ("base", "wmpo", "grpo_on_rollouts")
            ]
            size = len(arrays["seeds"])
            lines.append(
                f"| {record.config['seed']} | {mode} | {' | '.join(cells)} | {size} "
                f"| {minutes:.1f} |"
            )
    lines += ["", *_differences(outcomes), "", *_trust(records), ""]
    lines.append(f"One row per episode: [{target.stem}.csv]({target.stem}.csv).")
    return "\n".join(lines) + "\n"


def _cycle(record: RunRecord) -> list[dict]:
    return [stage for name, stage in record.stages.items() if first_name(name) in CYCLE]


def _rate(success: np.ndarray | None) -> str:
    if success is None:
        return "not run"
    interval = wilson(int(success.sum()), len(success))
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _differences(outcomes: Sequence[dict[str, np.ndarray]]) -> list[str]:
    """Mean paired differences over the seeds, in points."""
    lines = ["Paired differences, mean over seeds:", ""]
    for mode in MODES:
        for opponent in ("base", "grpo_on_rollouts"):
            if any(f"{opponent}_{mode}" not in arrays for arrays in outcomes):
                continue
            pairs = [(a[f"{opponent}_{mode}"], a[f"wmpo_{mode}"]) for a in outcomes]
            summary = over_seeds(pairs)
            between = f", between seeds {_points(summary.between)}" if summary.between else ""
            lines.append(
                f"- WMPO - {opponent}, {mode}: {_points(summary.pooled)} over episodes{between}"
            )
    return lines


def _points(interval: Interval) -> str:
    values = (100 * value for value in interval)
    return "{:+.1f} points [{:+.1f}, {:+.1f}]".format(*values)


def _trust(records: Sequence[RunRecord]) -> list[str]:
    """Imagination against reality under the same starts."""
    lines = [
        "Imagination against reality (same starts and actions; closed loop: the same starts, and",
        "the policy acts on imagined frames):",
        "",
        f"| seed | when | {' | '.join(TRUST)} | n |",
        "|---" * (len(TRUST) + 3) + "|",
    ]
    for record in records:
        for when, stage in (("before RL", "gates"), ("after RL", "gates_after")):
            found = record.stages[stage]
            numbers = [found[name] for name in TRUST.values()]
            cells = " | ".join(f"{value:.3f}" for value in numbers)
            lines.append(f"| {record.config['seed']} | {when} | {cells} | {found['n']} |")
    return lines


def main(argv: Sequence[str]) -> int:
    """`argv`: the target without its ending, then the workdirs."""
    if len(argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    interrupts.raise_from_now_on()
    try:
        collate(resolve(argv[0]), [resolve(workdir) for workdir in argv[1:]])
    except UserError as error:
        print(f"wmpo_jax: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(interrupts.run(main))
