"""The starts that a run has used, by who used them: what an episode can be reset to."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from wmpo_jax.runtime.files import load_arrays
from wmpo_jax.stages.seeds import seed_range
from wmpo_jax.stages.setting import Setting


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


def stored_starts(setting: Setting) -> dict[str, StoredStarts]:
    """Evaluation (with outcomes, once evaluated), gates, rollouts and demonstrations."""
    config = setting.config
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
    if setting.workdir.done("evaluate"):
        results = load_arrays(setting.workdir.data("evaluation") / "results.npz", "evaluate")
        outcomes = {name: results[f"{name}_greedy"] for name in ("base", "wmpo")}
        starts["evaluation"] = StoredStarts(results["seeds"], outcomes)
    return starts
