"""The tables of the report: rows of ready-made strings, for the terminal and for the page alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wmpo_jax.report.intervals import Interval, wilson
from wmpo_jax.report.record import (
    BASE_STAGES,
    STAGES,
    WMPO_STAGES,
    RunRecord,
    minutes,
    real_episodes,
    total_seconds,
)

NOTHING = "–"
POLICY_NAMES = {"base": "base", "wmpo": "WMPO"}
POLICY_STAGES = {"base": BASE_STAGES, "wmpo": WMPO_STAGES}


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column is a label, the others are numbers."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def as_text(self) -> str:
        """Aligned columns for a terminal, labels left and numbers right."""
        lines = [self.header, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        cells = [
            [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:]))]
            for line in lines
        ]
        cells.insert(1, ["-" * width for width in widths])
        text = "\n".join("  ".join(line).rstrip() for line in cells)
        return f"{text}\n{self.note}" if self.note else text


@dataclass(frozen=True)
class PolicyScore:
    """How often one policy solved the task in one way of acting ("greedy" or "sampled")."""

    policy: str
    mode: str
    rate: Interval
    n: int


def scores(record: RunRecord) -> list[PolicyScore]:
    """Every measured (policy, mode); the primary mode first. Empty before evaluation."""
    evaluation = record.stages.get("evaluate", {})
    found = [
        PolicyScore(policy, mode, wilson(counts["successes"], counts["n"]), counts["n"])
        for policy, modes in evaluation.get("policies", {}).items()
        for mode, counts in modes.items()
    ]
    return sorted(found, key=lambda score: score.mode != evaluation["primary"])


def result_table(record: RunRecord) -> Table:
    """The final table: what each policy achieves and what it cost."""
    rows = tuple(_result_row(record, score) for score in scores(record))
    header = ("policy", "mode", "success %", "95 %", "n", "real", "imagined", "minutes")
    note = (
        "95 %: Wilson. real, imagined: episodes that trained the policy or its models "
        "(evaluation and oracle not included). minutes: wall clock of those stages."
    )
    return Table(header, rows, note if rows else "The policies have not been evaluated yet.")


def _result_row(record: RunRecord, score: PolicyScore) -> tuple[str, ...]:
    stages = POLICY_STAGES.get(score.policy, ())
    imagined = record.stages.get("improve", {}).get("imagined_episodes")
    return (
        POLICY_NAMES.get(score.policy, score.policy),
        score.mode,
        f"{100 * score.rate.estimate:.1f}",
        f"{100 * score.rate.low:.1f} to {100 * score.rate.high:.1f}",
        number(score.n),
        number(real_episodes(record, stages)) if stages else NOTHING,
        number(imagined) if "improve" in stages else "0" if stages else NOTHING,
        number(minutes(record, stages)) if stages else NOTHING,
    )


def difference_text(record: RunRecord) -> str:
    """The paired difference of the primary mode in words; empty before evaluation."""
    evaluation = record.stages.get("evaluate", {})
    mode = evaluation.get("primary")
    if mode not in evaluation.get("paired", {}):
        return ""
    paired = evaluation["paired"][mode]
    value, low, high = (100 * paired[key] for key in ("difference", "low", "high"))
    return f"{value:+.1f} points [{low:+.1f}, {high:+.1f}]"


def ledger_table(record: RunRecord) -> Table:
    """Every real episode ever used, by whom, with the total."""
    rows = [(e["stage"], e["name"], number(e["episodes"])) for e in record.ledger]
    total = number(sum(int(entry["episodes"]) for entry in record.ledger))
    return Table(("stage", "what", "episodes"), (*rows, ("total", "", total)))


def honesty_table(record: RunRecord) -> Table:
    """How well imagination foretells reality, before and after the policy was improved."""
    blocks = record.stages.get("honesty", {})
    present = [name for name in ("before", "after") if name in blocks]
    rows = [_psnr_row(blocks, present, horizon) for horizon in ("1", "half", "full")]
    for key, label in _HONESTY_RATES.items():
        rows.append((label, *(percent(blocks[name].get(key)) for name in present)))
    rows.append(("episodes compared", *(number(blocks[name].get("n")) for name in present)))
    return Table(("", *(f"{name} RL" for name in present)), tuple(rows))


_HONESTY_RATES = {
    "imagined_rate": "imagined success %",
    "real_rate": "real success %",
    "agreement": "agreement %",
    "precision": "precision %",
    "recall": "recall %",
}
_HORIZONS = {"1": "first frame", "half": "half-way", "full": "last frame"}


def _psnr_row(blocks: Mapping[str, Any], present: list[str], horizon: str) -> tuple[str, ...]:
    cells = []
    for name in present:
        model = blocks[name].get("psnr", {}).get(horizon)
        copy = blocks[name].get("psnr_copy_first", {}).get(horizon)
        cells.append(f"{decibels(model)} ({decibels(copy)})")
    return (f"PSNR, {_HORIZONS[horizon]} (copy of the first), dB", *cells)


def stage_rows(record: RunRecord) -> list[dict[str, Any]]:
    """One row per stage: name, purpose, whether it ran, its minutes and its headline numbers."""
    order = [*STAGES, *(name for name in record.stages if name not in STAGES)]
    return [
        {
            "name": name.replace("_", " "),
            "purpose": STAGES.get(name, ""),
            "done": name in record.stages,
            "minutes": _stage_minutes(record.stages.get(name, {})),
            "facts": headline_facts(record.stages.get(name, {})),
        }
        for name in order
    ]


def _stage_minutes(result: Mapping[str, Any]) -> str:
    seconds = total_seconds(dict(result))
    return NOTHING if seconds is None else number(seconds / 60)


def headline_facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The plain numbers and words a stage recorded, without its seconds and nested blocks."""
    return [
        (name.replace("_", " "), number(value))
        for name, value in result.items()
        if name != "seconds" and isinstance(value, int | float | str)
    ]


def gates(record: RunRecord) -> list[dict[str, Any]]:
    """Every gate of every stage: name, where, value, bound, passed; failed ones first."""
    found = []
    for stage, result in record.stages.items():
        blocks = {"": result} | {k: v for k, v in result.items() if isinstance(v, dict)}
        for block, content in blocks.items():
            for name, gate in content.get("gates", {}).items():
                where = f"{block} RL" if stage == "honesty" and block else stage.replace("_", " ")
                found.append(_gate(name, where, gate))
    return sorted(found, key=lambda gate: gate["passed"])


def _gate(name: str, where: str, gate: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name.replace("_", " "),
        "where": where,
        "value": number(gate["value"]),
        "bound": number(gate["bound"]),
        "passed": bool(gate["passed"]),
    }


def number(value: Any) -> str:
    """A count with thin groups of three, a measurement with three digits, words as they are."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)


def percent(fraction: float | None) -> str:
    return NOTHING if fraction is None else f"{100 * fraction:.1f}"


def decibels(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}"
