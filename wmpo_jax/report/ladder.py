"""The tables of stage diagnose: the rungs, what is wrong with the pixels, who is wrong where."""

import math
from typing import Any

from wmpo_jax.report.record import RunRecord
from wmpo_jax.report.tables import EN_DASH, NOTHING, Table, number, percent

LABELS = {
    "camera": "real environment, camera frames",
    "reconstructed": "real environment, reconstructed frames",
    "one chunk": "real environment, frames predicted one chunk ahead",
    "imagined, true": "imagination, outcome of the same actions in reality",
    "imagined, scored": "imagination, outcome by the reward model",
}


def ladder_tables(record: RunRecord) -> list[tuple[str, Table]]:
    """(title, table) pairs; empty before the stage has run."""
    found = []
    for policy, report in record.stages.get("diagnose", {}).get("policies", {}).items():
        found += [
            (f"Rungs, {policy} policy", _rungs(report)),
            (f"PSNR in each thing's mask, {policy} policy, dB", _geoms(report)),
            (f"Imagined and real success by miss, {policy} policy", _by_miss(report)),
        ]
    return found


def _rungs(report: dict[str, Any]) -> Table:
    rows = []
    for name, rung in report["rungs"].items():
        change = rung.get("change")
        rows.append(
            (
                LABELS.get(name, name),
                f"{percent(rung['rate'])} ({percent(rung['low'])}{EN_DASH}{percent(rung['high'])})",
                NOTHING if change is None else f"{100 * change['estimate']:+.1f}",
                NOTHING
                if change is None
                else f"{100 * change['low']:+.1f} to {100 * change['high']:+.1f}",
                percent(rung.get("agreement")),
                _psnr(report, name),
            )
        )
    header = ("what the policy sees, who scores", "success %", "change", "95 %", "agreement %")
    note = (
        f"n = {number(report['n'])}, the same starts and random numbers in every row. change and "
        "agreement: with the row above, paired. PSNR: of the frames that the policy is shown."
    )
    return Table((*header, "PSNR 1 / half / end, dB"), tuple(rows), note)


def _psnr(report: dict[str, Any], rung: str) -> str:
    curve = report["psnr_curve"].get(rung.split(",")[0])
    if curve is None:
        return NOTHING
    return " / ".join(f"{curve[t]:.1f}" for t in (0, len(curve) // 2 - 1, len(curve) - 1))


def _geoms(report: dict[str, Any]) -> Table:
    kinds = list(report["geoms"])
    names = list(dict.fromkeys(name for kind in kinds for name in report["geoms"][kind]))
    rows = [
        (name, *(_geom_cell(report["geoms"][kind].get(name)) for kind in kinds)) for name in names
    ]
    note = "In parentheses: the share of all pixels, and of all squared error."
    return Table(("", *kinds), tuple(rows), note)


def _geom_cell(cell: dict[str, float] | None) -> str:
    if cell is None:
        return NOTHING
    return f"{cell['psnr']:.1f} ({percent(cell['pixels'])} %, {percent(cell['error'])} %)"


def _by_miss(report: dict[str, Any]) -> Table:
    rows = tuple(
        (_range(row), number(row["n"]), percent(row["real"]), percent(row["imagined"]))
        for row in report["by_miss"]
    )
    note = "miss: how far off the decisive step was; it is the true one of the imagined episode."
    return Table(("miss, cm", "n", "real success %", "imagined success %"), rows, note)


def _range(row: dict[str, float]) -> str:
    low, high = row.get("from", math.inf), row.get("to", math.inf)
    if math.isinf(low):
        return "never decided"
    return f"{100 * low:.1f}{EN_DASH}{100 * high:.1f}"
