"""Everything the report knows about a run: what its stages left in the workdir, read once.

The rest of the report takes a `RunRecord`, so that a page about several runs can take several.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wmpo_jax.runtime.config import flatten
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import load_json
from wmpo_jax.runtime.workdir import Ledger

# In the order of the paper, with what a reader should know about each.
STAGES = {
    "demos": "demonstrations and play",
    "sft": "base policy, imitation",
    "oracle": "could RL mend it with unlimited real rollouts?",
    "collect": "real rollouts of the base policy",
    "autoencoder": "frames to latents and back",
    "world_model": "video model of the task",
    "reward": "success classifier",
    "honesty": "imagination against reality",
    "improve": "GRPO in imagination",
    "evaluate": "held-out starts, real environment",
}
BASE_STAGES = ("demos", "sft")
WMPO_STAGES = (*BASE_STAGES, "collect", "autoencoder", "world_model", "reward", "improve")


class Curve(NamedTuple):
    """One logged quantity: int64 steps [n], ascending, and float64 values [n]."""

    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class RunRecord:
    """One run.

    Attributes:
      name: the workdir's name.
      config: flat, `{"sft.learning_rate": 1e-3}`; empty when there is no config.json.
      stages: what each finished stage recorded, in the order of STAGES.
      metrics: stage -> quantity -> curve, in the same order.
      ledger: one dict per use of real episodes: stage, name, episodes.
      videos: the .npz files of side-by-side clips, sorted by name.
    """

    name: str
    config: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    metrics: dict[str, dict[str, Curve]]
    ledger: list[dict[str, Any]]
    videos: list[Path]


def read_run(workdir: Path) -> RunRecord:
    """Reads a workdir, finished or not.

    Raises:
      UserError: no such folder, or a file in it is not valid JSON.
    """
    if not workdir.is_dir():
        raise UserError(f"There is no workdir {workdir}: run the stages first or check the path.")
    config = workdir / "config.json"
    return RunRecord(
        name=workdir.resolve().name,
        config=flatten(load_json(config)) if config.exists() else {},
        stages={path.stem: load_json(path) for path in _in_order(workdir.glob("stages/*.json"))},
        metrics={path.stem: read_curves(path) for path in _in_order(workdir.glob("metrics/*.jsonl"))},
        ledger=Ledger(workdir / "ledger.jsonl").read(),
        videos=sorted(workdir.glob("data/videos/*.npz")),
    )


def _in_order(paths: Iterable[Path]) -> list[Path]:
    """As the paper goes, then whatever else there is by name."""
    order = list(STAGES)
    return sorted(paths, key=lambda p: (order.index(p.stem) if p.stem in order else 99, p.stem))


def read_curves(path: Path) -> dict[str, Curve]:
    """Reads metrics of one JSON object per line, `{"step": 3, "loss": 0.5}`.

    A quantity may be missing from some lines. Where a resumed run repeats a step, the later line
    counts. A last line cut short by a kill is dropped.

    Raises:
      UserError: another line is not a JSON object with a step.
    """
    points: dict[str, dict[int, float]] = {}
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            step = int(entry["step"])
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise UserError(
                f"{path} line {number} is not a JSON object with a step: delete the line."
            ) from error
        for name, value in entry.items():
            if name != "step" and isinstance(value, int | float):
                points.setdefault(name, {})[step] = float(value)
    return {name: _curve(values) for name, values in points.items()}


def _curve(values: dict[int, float]) -> Curve:
    steps = sorted(values)
    return Curve(np.array(steps), np.array([values[step] for step in steps]))


def real_episodes(record: RunRecord, stages: tuple[str, ...]) -> int:
    """How many real episodes `stages` used, by the ledger."""
    return sum(int(entry["episodes"]) for entry in record.ledger if entry["stage"] in stages)


def minutes(record: RunRecord, stages: tuple[str, ...]) -> float | None:
    """Wall-clock minutes of `stages`; None when one of them has not run or took no time down."""
    seconds = [total_seconds(record.stages.get(stage, {})) for stage in stages]
    known = [value for value in seconds if value is not None]
    return sum(known) / 60 if len(known) == len(stages) else None


def total_seconds(result: dict[str, Any]) -> float | None:
    """A stage's seconds: one number, or a dict of phases whose sum they are."""
    seconds = result.get("seconds")
    if isinstance(seconds, dict):
        return float(sum(seconds.values()))
    return None if seconds is None else float(seconds)
