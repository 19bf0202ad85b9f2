"""Success rates of evaluated episodes, in all and by instruction."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from wmpo_jax.report.intervals import wilson


def rate(success: np.ndarray) -> dict[str, Any]:
    """successes, n, rate and its Wilson 95 % interval."""
    interval = wilson(int(success.sum()), len(success))
    return {
        "successes": int(success.sum()),
        "n": len(success),
        "rate": float(success.mean()),
        "wilson_low": interval.low,
        "wilson_high": interval.high,
    }


def by_task(outcome: dict[str, np.ndarray], instructions: Sequence[str]) -> dict[str, Any]:
    """`overall`, `by_task` for every instruction that was given, and how many were invalid."""
    instruction_id_B = outcome["instruction_id"]
    found = {
        instruction: rate(outcome["success"][instruction_id_B == row])
        for row, instruction in enumerate(instructions)
        if (instruction_id_B == row).any()
    }
    return {
        "overall": rate(outcome["success"]),
        "by_task": found,
        "invalid": int(outcome["invalid"].sum()),
    }
