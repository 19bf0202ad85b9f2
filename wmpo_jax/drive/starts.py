"""The starts that a run has used, by the stage that used them: what an episode can be reset to."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from wmpo_jax.assembly.seeds import seed_range
from wmpo_jax.assembly.trained import TrainedRun
from wmpo_jax.runtime.files import load_arrays


@dataclass(frozen=True)
class StoredStarts:
    """Starts of one role.

    Attributes:
      seeds: int [n]; an initial state is a function of its seed.
      outcomes: bool [n] by policy, whether it solved the start when it acted greedily; empty
        where that was not measured.
    """

    seeds: np.ndarray
    outcomes: Mapping[str, np.ndarray] = field(default_factory=dict)


def stored_starts(run: TrainedRun) -> dict[str, StoredStarts]:
    """Evaluation (with outcomes, once evaluated), gates, rollouts and demonstrations."""
    config = run.config
    counts = {
        "evaluation": config.evaluate.episodes,
        "gates": config.gates.episodes,
        "rollouts": config.collect.starts,
        "demos": config.demos.episodes,
    }
    starts = {
        role: StoredStarts(seed_range(role, config.seed, 0, count))
        for role, count in counts.items()
    }
    if run.workdir.done("evaluate"):
        results = load_arrays(run.workdir.data("evaluation") / "results.npz", "evaluate")
        outcomes = {name: results[f"{name}_greedy"] for name in ("base", "wmpo")}
        starts["evaluation"] = StoredStarts(results["seeds"], outcomes)
    return starts
