"""Two or more runs on one page: results, trust, curves, and where their configs differ.

python -m wmpo_jax.report.compare compare.html runs/press_0 runs/press_1
"""

from wmpo_jax.runtime import interrupts

if __name__ == "__main__":  # before anything heavy is imported
    interrupts.exit_at_once()

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from wmpo_jax.report import plots, tables
from wmpo_jax.report.page import template
from wmpo_jax.report.record import (
    RunRecord,
    comparisons,
    minutes,
    read_run,
    real_episodes,
    understood,
)
from wmpo_jax.report.tables import Table, number, percent
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import atomic_write
from wmpo_jax.runtime.paths import resolve

MAX_RUNS = len(plots.RUN_COLOURS)


def write_comparison(target: Path, workdirs: Sequence[Path]) -> None:
    """Writes a page like `report/index.html` about several workdirs, finished or not.

    Raises:
      UserError: fewer than two workdirs or more than have a color, or one cannot be read.
    """
    if not 2 <= len(workdirs) <= MAX_RUNS:
        raise UserError(f"A comparison takes 2 to {MAX_RUNS} workdirs, not {len(workdirs)}.")
    with understood(workdirs):
        records = named_apart([read_run(workdir) for workdir in workdirs], workdirs)
        page = render(records)
    atomic_write(target, page.encode())


def named_apart(records: Sequence[RunRecord], workdirs: Sequence[Path]) -> dict[str, RunRecord]:
    """The runs by a name that only one of them has: the folder's, with its parents if needed."""
    parts = [workdir.resolve().parts for workdir in workdirs]
    depth = 1
    while len({p[-depth:] for p in parts}) < len(set(parts)):
        depth += 1
    names = ["/".join(p[-depth:]) for p in parts]
    if len(set(names)) < len(names):
        raise UserError("A workdir is given twice: name each one once.")
    return dict(zip(names, records, strict=True))


def render(records: Mapping[str, RunRecord]) -> str:
    """The page about the runs."""
    colors = {name: plots.css_variable(i) for i, name in enumerate(records)}
    return template("compare.html").render(
        colors=colors,
        result=result_table(records),
        trust=trust_table(records),
        differences=config_differences(records),
        panels=overlaid_curves(records),
    )


def result_table(records: Mapping[str, RunRecord]) -> Table:
    """Success of every policy of every run, in its primary mode."""
    rows = []
    for name, record in records.items():
        scores = tables.scores(record)
        for score in (s for s in scores if s.mode == scores[0].mode):
            rows.append(
                (
                    f"{name}: {tables.POLICY_NAMES.get(score.policy, score.policy)}, {score.mode}",
                    percent(score.rate.estimate),
                    f"{percent(score.rate.low)}{tables.EN_DASH}{percent(score.rate.high)}",
                    number(score.n),
                    tables.difference_text(record) if score.policy == "wmpo" else tables.NOTHING,
                    number(real_episodes(record, score.policy)),
                    tables.minutes_text(minutes(record, score.policy)),
                )
            )
    header = ("run", "success %", "95 %", "n", "WMPO - base, paired", "real episodes", "minutes")
    note = "Runs differ in their starts: compare intervals, and use many seeds."
    return Table(header, tuple(rows), note)


_TRUST = ("real_rate", "imagined_rate", "agreement", "precision", "recall")


def trust_table(records: Mapping[str, RunRecord]) -> Table:
    """Imagination against reality, in per cent."""
    rows = [
        (f"{name}, {when} RL", *(percent(block.get(key)) for key in _TRUST), number(block["n"]))
        for name, record in records.items()
        for when, block in comparisons(record).items()
    ]
    header = ("", *(key.replace("_", " ") for key in _TRUST), "n")
    return Table(header, tuple(rows))


def config_differences(records: Mapping[str, RunRecord]) -> Table:
    """The fields of the configs that are not the same in all runs."""
    fields = sorted({field for record in records.values() for field in record.config})
    rows = []
    for field in fields:
        values = [record.config.get(field) for record in records.values()]
        if any(value != values[0] for value in values):
            rows.append((field, *("absent" if v is None else str(v) for v in values)))
    return Table(("field", *records), tuple(rows))


def overlaid_curves(records: Mapping[str, RunRecord]) -> list[dict[str, Any]]:
    """Stage by stage, each quantity that two runs or more have logged, one line per run."""
    stages = dict.fromkeys(stage for record in records.values() for stage in record.metrics)
    groups = []
    for stage in stages:
        logged = {name: record.metrics.get(stage, {}) for name, record in records.items()}
        panels: list[tuple[str, Markup]] = []
        for quantity in dict.fromkeys(q for curves in logged.values() for q in curves):
            curves = {name: found.get(quantity) for name, found in logged.items()}
            if sum(curve is not None for curve in curves.values()) > 1:
                drawn = plots.overlaid(stage, quantity, list(curves.values()))
                panels.append((quantity.replace("_", " "), drawn))
        if panels:
            groups.append({"stage": stage.replace("_", " "), "panels": panels})
    return groups


def main(argv: Sequence[str]) -> int:
    """`argv`: the page to write, then the workdirs."""
    if not argv or argv[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    interrupts.raise_from_now_on()
    try:
        write_comparison(resolve(argv[0]), [resolve(workdir) for workdir in argv[1:]])
    except UserError as error:
        print(f"wmpo_jax: {error}", file=sys.stderr)
        return 2
    print(f"comparison: {argv[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(interrupts.run(main))
