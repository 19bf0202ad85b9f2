"""The tables of the report: rows of ready-made strings, for the terminal and for the page alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wmpo_jax.report.intervals import Interval, wilson
from wmpo_jax.report.record import (
    BASELINES,
    CYCLE,
    POLICY_EPISODES,
    STAGES,
    RunRecord,
    comparisons,
    first_name,
    imagined_episodes,
    improvements,
    labeled_episodes,
    minutes,
    monitored_episodes,
    real_episodes,
)

NOTHING = EN_DASH = "\N{EN DASH}"
THIN_SPACE = "\N{NARROW NO-BREAK SPACE}"
_TO_ASCII = str.maketrans({EN_DASH: "-", THIN_SPACE: " "})
POLICY_NAMES = {
    "base": "base",
    "wmpo": "WMPO",
    "filtered_bc": "filtered BC",
    "dpo": "DPO",
    "grpo_on_rollouts": "GRPO on the rollouts",
    "grpo_online": "GRPO with all of WMPO's real episodes",
}


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column is a label, the others are numbers."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def as_text(self) -> str:
        """Aligned ASCII columns for a terminal, labels left and numbers right."""
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]
        lines = [self.header, tuple("-" * width for width in widths), *self.rows]
        text = "\n".join(_aligned(line, widths) for line in lines).translate(_TO_ASCII)
        return f"{text}\n{self.note}" if self.note else text


def _aligned(cells: tuple[str, ...], widths: list[int]) -> str:
    first, *others = (f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
    return "  ".join([first.strip().ljust(widths[0]), *others]).rstrip()


@dataclass(frozen=True)
class PolicyScore:
    """How often one policy solved the task in one way of acting ("greedy" or "sampled")."""

    policy: str
    mode: str
    rate: Interval
    n: int


def scores(record: RunRecord) -> list[PolicyScore]:
    """Every measured (policy, mode); the primary mode first. Empty before evaluation.

    Baselines appear with their best setting, chosen on the evaluation itself.
    """
    evaluation = record.stages.get("evaluate")
    if evaluation is None:
        return []
    policies = dict(evaluation["policies"])
    for name in BASELINES:
        if name in record.stages:
            best = record.stages[name]["best"]
            policies[name] = {mode: best[mode] for mode in policies["base"]}
    found = [
        PolicyScore(policy, mode, wilson(counts["successes"], counts["n"]), counts["n"])
        for policy, modes in policies.items()
        for mode, counts in modes.items()
    ]
    return sorted(found, key=lambda score: score.mode != evaluation["primary"])


def result_table(record: RunRecord) -> Table:
    """The final table: what each policy achieves and what it cost."""
    rows = tuple(_result_row(record, score) for score in scores(record))
    header = (
        *("policy", "success %", "95 %", "n"),
        *("labeled", "play", "checks", "imagined", "minutes"),
    )
    note = (
        "95 %: Wilson. labeled, play, imagined: episodes that trained the policy or its models, "
        "play without any label. checks: real episodes for the alarm and the choice of the result. "
        "minutes: wall clock of the stages that made it."
    )
    return Table(header, rows, note if rows else "The policies have not been evaluated yet.")


def _result_row(record: RunRecord, score: PolicyScore) -> tuple[str, ...]:
    policy, ours = score.policy, score.policy == "wmpo"
    labeled = play = None
    if policy in POLICY_EPISODES:
        labeled = labeled_episodes(record, policy)
        play = real_episodes(record, policy) - labeled
    return (
        f"{POLICY_NAMES.get(score.policy, score.policy)}, {score.mode}",
        percent(score.rate.estimate),
        f"{percent(score.rate.low)}{EN_DASH}{percent(score.rate.high)}",
        number(score.n),
        number(labeled),
        number(play),
        number(monitored_episodes(record) if ours else 0),
        number(imagined_episodes(record) if ours else 0),
        minutes_text(minutes(record, score.policy)),
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
    rows = [(f"{e['stage']}: {e['name']}", number(e["episodes"])) for e in record.ledger]
    total = number(sum(int(entry["episodes"]) for entry in record.ledger))
    return Table(("used by", "episodes"), (*rows, ("total", total)))


def honesty_table(record: RunRecord) -> Table:
    """How well imagination predicts reality, before and after the policy was improved."""
    blocks = comparisons(record)
    rows = [_psnr_row(blocks, moment) for moment in _MOMENTS]
    for key, label in _HONESTY_RATES.items():
        rows.append((label, *(percent(block.get(key)) for block in blocks.values())))
    rows.append(("episodes compared", *(number(block["n"]) for block in blocks.values())))
    return Table(("", *(f"{when} RL" for when in blocks)), tuple(rows))


_HONESTY_RATES = {
    "real_rate": "real success %",
    "imagined_rate": "imagined success, same actions %",
    "free_imagined_rate": "imagined success, free %",
    "agreement": "agreement %",
    "precision": "precision %",
    "recall": "recall %",
}
_MOMENTS = {"1": "1 frame ahead", "half": "half-way", "full": "at the end"}


def _psnr_row(blocks: Mapping[str, Any], moment: str) -> tuple[str, ...]:
    cells = [
        f"{block['psnr'][moment]:.1f} ({block['psnr_copy_first'][moment]:.1f})"
        for block in blocks.values()
    ]
    return (f"PSNR {_MOMENTS[moment]}, dB (copied first frame)", *cells)


def monitor_table(record: RunRecord) -> Table:
    """The checks of the policy in the real environment during reinforcement, round by round."""
    header = ("", "real %", "95 %", "imagined %", "agreement %", "false successes %", "PSNR, dB")
    rows = []
    for round_number, result in enumerate(improvements(record), 1):
        for check in result.get("checks", ()):
            rate = wilson(round(check["real_success"] * check["n"]), check["n"])
            where = f"iteration {check['iteration']}"
            rows.append(
                (
                    where if round_number == 1 else f"round {round_number}, {where}",
                    percent(rate.estimate),
                    f"{percent(rate.low)}{EN_DASH}{percent(rate.high)}",
                    percent(check["imagined_success"]),
                    percent(check["agreement"]),
                    percent(check["false_success"]),
                    f"{check['real_psnr']:.1f}",
                )
            )
    note = (
        "The same starts every time; the first row is the policy before reinforcement. imagined: "
        "the policy acts on imagined frames. agreement, false successes (of the real failures), "
        "PSNR: the policy's real actions replayed in imagination."
    )
    return Table(header, tuple(rows), note)


def stopped(record: RunRecord) -> list[str]:
    """Why reinforcement was stopped, or its last policy is not the result; one per round."""
    return [result["stopped"] for result in improvements(record) if "stopped" in result]


def stage_rows(record: RunRecord) -> list[dict[str, Any]]:
    """One row per stage: name, purpose, whether it ran, its minutes and its headline numbers."""
    order = dict.fromkeys([*CYCLE, *record.stages])
    return [_stage_row(name, record.stages.get(name)) for name in order]


def _stage_row(name: str, result: Mapping[str, Any] | None) -> dict[str, Any]:
    seconds = (result or {}).get("seconds")
    return {
        "name": name.replace("_", " "),
        "purpose": STAGES.get(first_name(name), ""),
        "done": result is not None,
        "minutes": minutes_text(None if seconds is None else seconds / 60),
        "facts": headline_facts(result or {}),
    }


_SHOWN_ELSEWHERE = ("seconds", "tp", "fp", "fn", "tn")


def headline_facts(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The plain numbers and words a stage recorded; what the page shows elsewhere is left out."""
    return [
        (name.replace("_", " "), number(value))
        for name, value in result.items()
        if name not in _SHOWN_ELSEWHERE and isinstance(value, int | float | str)
    ]


def gates(record: RunRecord) -> list[dict[str, Any]]:
    """Every gate that was checked: name, where, value, bound, passed; failed ones first."""
    found = [
        _gate(name, f"{when} RL", gate)
        for when, block in comparisons(record).items()
        for name, gate in block.get("gates", {}).items()
    ]
    if "oracle" in record.stages:
        oracle = record.stages["oracle"]
        bound = record.config.get("oracle.min_gain")
        gate = {"value": oracle["gain"], "bound": bound, "passed": oracle["passed"]}
        found.append(_gate("oracle gain", "real environment", gate))
    return sorted(found, key=lambda gate: gate["passed"])


def _gate(name: str, where: str, gate: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name.replace("_", " "),
        "where": where,
        "value": number(gate["value"]),
        "bound": number(gate["bound"]),
        "passed": bool(gate["passed"]),
    }


def confusions(record: RunRecord) -> list[dict[str, Any]]:
    """Two-by-two counts of predicted against real outcomes: title, reward model, cells, and
    precision and recall in words."""
    found = [
        _confusion(f"Imagined outcome, {when} RL", "imagined", block)
        for when, block in comparisons(record).items()
    ]
    for name, block in record.stages.get("reward", {}).items():
        if isinstance(block, dict) and "tp" in block:
            title = f"Reward model, held-out {name.replace('_', ', ')}"
            found.append(_confusion(title, "predicted", block))
    return found


def _confusion(title: str, reward_model: str, block: Mapping[str, Any]) -> dict[str, Any]:
    counts = {key: block[key] for key in ("tp", "fp", "fn", "tn")}
    total = max(1, sum(counts.values()))
    cells = {key: {"count": number(n), "share": n / total} for key, n in counts.items()}
    precision = counts["tp"] / max(1, counts["tp"] + counts["fp"])
    recall = counts["tp"] / max(1, counts["tp"] + counts["fn"])
    words = f"precision {percent(precision)} %, recall {percent(recall)} %"
    return {"title": title, "reward_model": reward_model, "cells": cells, "words": words}


def number(value: Any) -> str:
    """A count with thin groups of three, a measurement with three digits, words as they are."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", THIN_SPACE)
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)


def minutes_text(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}" if value >= 0.1 else "< 0.1"


def percent(fraction: float | None) -> str:
    return NOTHING if fraction is None else f"{100 * fraction:.1f}"
