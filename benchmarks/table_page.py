"""Writes what `benchmarks.table` has made: one page, and the outcome of every episode."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wmpo_jax.report import record as records
from wmpo_jax.report.intervals import over_seeds, wilson
from wmpo_jax.report.record import RunRecord, read_run
from wmpo_jax.runtime.files import atomic_write, load_arrays, save_json

MODES = ("greedy", "sampled")
LABELS = {
    "base": "base",
    "filtered_bc": "filtered BC",
    "dpo": "DPO",
    "grpo_on_rollouts": "online GRPO, same P",
    "unaligned": "WMPO, not aligned",
    "no_play": "WMPO, no play",
    "wmpo": "WMPO",
    "lifelong": "WMPO, lifelong",
    "grpo_online": "online GRPO, all of WMPO's episodes",
}
Cell = tuple[str, int, int]  # task, P, seed
# method -> mode -> bool [n], by cell
Outcomes = dict[Cell, dict[str, dict[str, np.ndarray]]]


def write(target: Path, runs: Sequence[tuple[Any, Path]]) -> None:
    """Writes <target>.md and <target>.json.

    Args:
      runs: (`benchmarks.table.Run`, its workdir), all of them ended.
    """
    outcomes: Outcomes = {}
    found: dict[Cell, dict[str, RunRecord]] = {}
    packed: dict[str, Any] = {}
    for run, workdir in runs:
        cell = (run.task, run.budget, run.seed)
        found.setdefault(cell, {})[run.kind] = read_run(workdir)
        outcomes.setdefault(cell, {}).update(_outcomes(run.kind, workdir))
        starts = load_arrays(workdir / "data/evaluation/results.npz", "evaluate")["seeds"]
        packed.setdefault("/".join(map(str, cell)), {"first_start": int(starts[0])})
    for cell, methods in outcomes.items():
        packed["/".join(map(str, cell))] |= {
            f"{method} {mode}": _hex(success)
            for method, modes in methods.items()
            for mode, success in modes.items()
        }
    save_json(target.with_suffix(".json"), packed)
    atomic_write(target.with_suffix(".md"), _page(target, outcomes, found).encode())


def _outcomes(kind: str, workdir: Path) -> dict[str, dict[str, np.ndarray]]:
    """Per episode, of every policy that this run has evaluated."""
    folder = workdir / "data/evaluation"
    arrays = load_arrays(folder / "results.npz", "evaluate")
    methods = {kind: {mode: arrays[f"wmpo_{mode}"] for mode in MODES}}
    if kind != "wmpo":
        return methods
    methods["base"] = {mode: arrays[f"base_{mode}"] for mode in MODES}
    stages = read_run(workdir).stages
    for name in records.BASELINES:
        arrays, best = load_arrays(folder / f"{name}.npz", name), stages[name].get("best_setting")
        prefix = "" if best is None else f"{best}_"
        methods[name] = {mode: arrays[f"{prefix}{mode}"] for mode in MODES}
    return methods


def _hex(success: np.ndarray) -> str:
    """One bit per start; the first start is the highest bit of the first digit."""
    return np.packbits(success).tobytes().hex()


def _page(target: Path, outcomes: Outcomes, found: Mapping[Cell, Mapping[str, RunRecord]]) -> str:
    primary = next(iter(found.values()))["wmpo"].stages["evaluate"]["primary"]
    size = len(next(iter(outcomes.values()))["base"][primary])
    seeds = sorted({seed for _, _, seed in outcomes})
    lines = [
        "# Results",
        "",
        f"{size} held-out starts per seed, training seeds {', '.join(map(str, seeds))}; declared "
        f"metric: {primary}. Brackets are 95 % intervals: Wilson's over the episodes of all seeds "
        "for rates; for paired differences over episodes, then between seeds (Student's t).",
        "Made by `python -m benchmarks.table`; baselines have their best setting, chosen on this "
        "evaluation.",
        "",
    ]
    for mode in (primary, *(mode for mode in MODES if mode != primary)):
        lines += [f"## {mode.capitalize()} actions", "", *_rates(outcomes, mode), ""]
        lines += [*_differences(outcomes, mode), ""]
    lines += ["## What they cost, mean of a run", "", *_costs(found), "", *_stopped(found)]
    lines.append(f"The outcome of every episode: [{target.stem}.json]({target.stem}.json).")
    return "\n".join(lines) + "\n"


def _methods(outcomes: Outcomes) -> list[str]:
    present = {method for methods in outcomes.values() for method in methods}
    return [method for method in LABELS if method in present]


def _groups(outcomes: Outcomes) -> dict[tuple[str, int], list[Cell]]:
    """(task, P) -> its cells, one per seed."""
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in outcomes:
        groups.setdefault(cell[:2], []).append(cell)
    return groups


def _rates(outcomes: Outcomes, mode: str) -> list[str]:
    methods = _methods(outcomes)
    lines = [
        f"| task | P | {' | '.join(LABELS[method] for method in methods)} |",
        "|---" * (len(methods) + 2) + "|",
    ]
    for (task, budget), cells in _groups(outcomes).items():
        texts = []
        for method in methods:
            success = np.concatenate([outcomes[cell][method][mode] for cell in cells])
            rate = wilson(int(success.sum()), len(success))
            texts.append(f"{rate.estimate:.3f} [{rate.low:.3f}, {rate.high:.3f}]")
        lines.append(f"| {task} | {budget} | {' | '.join(texts)} |")
    return lines


def _differences(outcomes: Outcomes, mode: str) -> list[str]:
    """Gains over base for every task, and of WMPO over every other method in the mean of tasks."""
    lines = ["Paired differences in points:", ""]
    for (task, budget), cells in _groups(outcomes).items():
        gain = _difference(outcomes, cells, "base", "wmpo", mode)
        lines.append(f"- {task}, P = {budget}: WMPO - base {gain}")
    for budget in sorted({budget for _, budget, _ in outcomes}):
        cells = [cell for cell in outcomes if cell[1] == budget]
        for method in _methods(outcomes):
            if method != "wmpo":
                gain = _difference(outcomes, cells, method, "wmpo", mode)
                lines.append(f"- mean of tasks, P = {budget}: WMPO - {LABELS[method]} {gain}")
    return lines


def _difference(
    outcomes: Outcomes, cells: Sequence[Cell], before: str, after: str, mode: str
) -> str:
    summary = over_seeds([(outcomes[c][before][mode], outcomes[c][after][mode]) for c in cells])
    shown = [summary.pooled, *([summary.between] if summary.between else [])]
    value = f"{100 * summary.pooled.estimate:+.1f}"
    return f"{value} {' '.join(f'[{100 * i.low:+.1f}, {100 * i.high:+.1f}]' for i in shown)}"


def _costs(found: Mapping[Cell, Mapping[str, RunRecord]]) -> list[str]:
    lines = [
        "| P | method | labeled real | play, no labels | real checks | imagined | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for budget in sorted({budget for _, budget, _ in found}):
        runs = [kinds for cell, kinds in found.items() if cell[1] == budget]
        for method in LABELS:
            if method in ("base", *records.BASELINES):
                costs = [_cost(kinds["wmpo"], method) for kinds in runs]
            else:
                costs = [_cost(kinds[method], "wmpo") for kinds in runs if method in kinds]
            if costs:
                *episodes, minutes = np.mean(costs, axis=0)
                cells = " | ".join(f"{count:.0f}" for count in episodes)
                lines.append(f"| {budget} | {LABELS[method]} | {cells} | {minutes:.1f} |")
    return lines


def _cost(record: RunRecord, policy: str) -> list[float]:
    """Labeled, play, checks, imagined episodes; minutes."""
    labeled = records.labeled_episodes(record, policy)
    ours = policy == "wmpo"
    return [
        labeled,
        records.real_episodes(record, policy) - labeled,
        records.monitored_episodes(record) if ours else 0,
        (records.imagined_episodes(record) or 0) if ours else 0,
        records.minutes(record, policy) or 0.0,
    ]


def _stopped(found: Mapping[Cell, Mapping[str, RunRecord]]) -> list[str]:
    """Runs in which the last policy is not the result."""
    lines = [
        f"- {task}, P = {budget}, seed {seed}, {LABELS[kind]}: {result['stopped']}"
        for (task, budget, seed), kinds in found.items()
        for kind, record in kinds.items()
        for result in records.improvements(record)
        if "stopped" in result
    ]
    return ["Where the last policy is not the result:", "", *lines, ""] if lines else []
