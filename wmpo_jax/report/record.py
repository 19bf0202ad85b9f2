"""The record of a run that the report is made from: what its stages left in the workdir, read once.

The rest of the report takes a `RunRecord`, so that a page about several runs can take several.
"""

import contextlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wmpo_jax.runtime.config import flatten
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import load_arrays, load_json, load_record
from wmpo_jax.runtime.metrics import read_metrics
from wmpo_jax.runtime.workdir import Ledger, read_config

# In the order of the paper, with a description of each.
CYCLE = {
    "demos": "demonstrations and play",
    "sft": "base policy, imitation",
    "collect": "real rollouts of the base policy",
    "autoencoder": "frames to latents and back",
    "world_model": "video model of the task",
    "reward": "reward model",
    "gates": "imagination against reality",
    "improve": "GRPO in imagination",
    "gates_after": "the same under the improved policy",
    "evaluate": "held-out starts, real environment",
}
# Optional stages: run by name only.
EXTRAS = {
    "diagnose": "where success changes between reality and imagination",
    "oracle": "GRPO with unlimited real rollouts",
    "filtered_bc": "imitation of the successes among the rollouts",
    "dpo": "DPO on pairs of the rollouts",
    "grpo_on_rollouts": "GRPO on the real rollouts alone",
    "grpo_online": "GRPO with as many real episodes as WMPO used in all",
}
# Policies beside base and WMPO, by the stage that trains and evaluates them.
BASELINES = ("filtered_bc", "dpo", "grpo_on_rollouts", "grpo_online")
STAGES = CYCLE | EXTRAS
# What each policy cost: the stages before it and the real episodes it or its models learned from.
POLICY_STAGES = {
    "base": ("demos", "sft"),
    "filtered_bc": ("demos", "sft", "collect", "filtered_bc"),
    "dpo": ("demos", "sft", "collect", "dpo"),
    "grpo_on_rollouts": ("demos", "sft", "collect", "grpo_on_rollouts"),
    "grpo_online": ("demos", "sft", "grpo_online"),
    "wmpo": ("demos", "sft", "collect", "autoencoder", "world_model", "reward", "improve"),
}
POLICY_EPISODES = {
    "base": ("demos",),
    "filtered_bc": ("demos", "rollouts"),
    "dpo": ("demos", "rollouts"),
    "grpo_on_rollouts": ("demos", "rollouts"),
    "grpo_online": ("demos", "online GRPO"),
    "wmpo": ("demos", "play", "rollouts"),
}
UNLABELED = ("play",)  # whose outcomes nobody looks at
ROUND = re.compile(r"_(\d+)$")  # of what later rounds of the lifelong loop leave


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
      outcomes: per held-out start its `seeds` and what became of it, such as `base_greedy` and
        `wmpo_greedy`, bool; empty before evaluation.
      environment: the self-check of the machine, as name -> words; empty before stage report.
    """

    name: str
    config: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    metrics: dict[str, dict[str, Curve]]
    ledger: list[dict[str, Any]]
    videos: list[Path]
    outcomes: dict[str, np.ndarray]
    environment: dict[str, str]


def read_run(workdir: Path) -> RunRecord:
    """Reads a workdir, finished or not.

    Raises:
      UserError: no such folder, or a file in it is damaged.
    """
    if not workdir.is_dir():
        raise UserError(f"There is no workdir {workdir}: run the stages first or check the path.")
    config = workdir / "config.json"
    environment = workdir / "report" / "environment.json"
    outcomes = workdir / "data" / "evaluation" / "results.npz"
    logs = _in_order(workdir.glob("metrics/*.jsonl"))
    return RunRecord(
        name=workdir.resolve().name,
        config=flatten(read_config(workdir)) if config.exists() else {},
        stages={p.stem: load_record(p, p.stem) for p in _in_order(workdir.glob("stages/*.json"))},
        metrics={path.stem: read_curves(path) for path in logs},
        ledger=Ledger(workdir / "ledger.jsonl").read(),
        videos=sorted(workdir.glob("data/videos/*.npz")),
        outcomes=load_arrays(outcomes, "evaluate") if outcomes.exists() else {},
        environment=load_json(environment) if environment.exists() else {},
    )


@contextlib.contextmanager
def understood(workdirs: Sequence[Path]) -> Iterator[None]:
    """For reading and drawing what the stages of several `workdirs` have left.

    Raises:
      UserError: a folder is no workdir; or instead of what Python raises where a field is missing
        or of another kind.
    """
    for workdir in workdirs:
        if not (workdir / "config.json").is_file():
            raise UserError(f"{workdir} is no workdir of a run: it has no config.json.")
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"The results in {', '.join(map(str, workdirs))} cannot be read "
            f"({type(error).__name__}: {str(error)[:200]}): a stage is missing, or a file is "
            "damaged or of another version; repeat the stages that are concerned."
        ) from error


def _in_order(paths: Iterable[Path]) -> list[Path]:
    """As the paper goes, round by round, then whatever else there is by name."""
    return sorted(paths, key=lambda path: (*_place(path.stem), path.stem))


def _place(name: str) -> tuple[int, int, int]:
    order, base = list(STAGES), first_name(name)
    if base not in order:
        return len(order), 0, 0
    if base == name:
        return order.index(name), 0, 0
    return order.index("improve"), int(name.removeprefix(f"{base}_")), order.index(base)


def first_name(name: str) -> str:
    """What a stage or data of a later round are called in the first one."""
    return ROUND.sub("", name)


def improvements(record: RunRecord) -> list[dict[str, Any]]:
    """The results of stage improve, one per round."""
    return [result for name, result in record.stages.items() if first_name(name) == "improve"]


def read_curves(path: Path) -> dict[str, Curve]:
    """Reads the metrics of the stage that the file is named after, its prefix taken off.

    A quantity may be missing from some steps. Where a step is repeated, the later line counts.
    """
    points: dict[str, dict[int, float]] = {}
    for entry in read_metrics(path):
        for name, value in entry.items():
            if name not in ("step", "time"):
                short = name.removeprefix(f"{path.stem}/")
                points.setdefault(short, {})[int(entry["step"])] = float(value)
    return {name: _curve(values) for name, values in points.items()}


def _curve(values: Mapping[int, float]) -> Curve:
    steps = sorted(values)
    return Curve(np.array(steps), np.array([values[step] for step in steps]))


def comparisons(record: RunRecord) -> dict[str, dict[str, Any]]:
    """Imagination against reality: "before" and "after" RL, as far as they have been made."""
    stages = {"before": "gates", "after": "gates_after"}
    return {when: record.stages[s] for when, s in stages.items() if s in record.stages}


def real_episodes(record: RunRecord, policy: str) -> int:
    """How many real episodes `policy` and its models were trained on, by the ledger."""
    return _episodes(record, POLICY_EPISODES[policy])


def labeled_episodes(record: RunRecord, policy: str) -> int:
    """Those of `real_episodes` whose actions or outcomes are labels."""
    return _episodes(record, set(POLICY_EPISODES[policy]) - set(UNLABELED))


def monitored_episodes(record: RunRecord) -> int:
    """Real episodes that checked the policy during reinforcement and trained nothing."""
    return _episodes(record, ("monitor",))


def imagined_episodes(record: RunRecord) -> int | None:
    """Of all rounds; None before stage improve."""
    found = improvements(record)
    return sum(int(result["imagined_episodes"]) for result in found) if found else None


def _episodes(record: RunRecord, names: Collection[str]) -> int:
    entries = (entry for entry in record.ledger if first_name(entry["name"]) in names)
    return sum(int(entry["episodes"]) for entry in entries)


def minutes(record: RunRecord, policy: str) -> float | None:
    """Wall-clock minutes of the stages that made `policy`; None while one of them is missing."""
    names = POLICY_STAGES.get(policy, ())
    later = [name for name in record.stages if first_name(name) != name]
    stages = [record.stages.get(name) for name in (*names, *(later if policy == "wmpo" else ()))]
    if not stages or None in stages:
        return None
    return sum(float(stage["seconds"]) for stage in stages if stage) / 60
