"""Statistics of a dataset's actions, and the one normalization that is derived from them.

Policies give normalized actions: the 1 % and 99 % quantiles of the demonstrations become -1 and 1
(BOUNDS_Q99 of OpenVLA; reference at 09f60b7:
verl/utils/vla_utils/openvla_oft/modeling_prismatic.py:1378-1397). Dimensions with mask False (the
gripper) are left as they are.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wmpo_jax.runtime.errors import UserError

Array = jax.Array | np.ndarray
NO_NOOPS = "_no_noops"


@dataclass(frozen=True, eq=False)
class ActionStatistics:
    """One row per number: all arrays are float64 [A], `mask` is bool [A] (True = normalized)."""

    q01: np.ndarray
    q99: np.ndarray
    mask: np.ndarray
    min: np.ndarray
    max: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def from_actions(
        cls, actions_NA: np.ndarray, mask: np.ndarray | None = None
    ) -> "ActionStatistics":
        """Statistics over the first axis of raw actions; no mask means all dimensions."""
        actions_NA = np.asarray(actions_NA, np.float64)
        q01, q99 = np.quantile(actions_NA, [0.01, 0.99], axis=0)
        return cls(
            q01=q01,
            q99=q99,
            mask=np.ones(actions_NA.shape[1], bool) if mask is None else np.asarray(mask, bool),
            min=actions_NA.min(axis=0),
            max=actions_NA.max(axis=0),
            mean=actions_NA.mean(axis=0),
            std=actions_NA.std(axis=0),
        )

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> "ActionStatistics":
        """From the `action` entry of a `dataset_statistics.json`; it may lack the mask."""
        mask = np.asarray(entry.get("mask", [True] * len(entry["q01"])), bool)
        numbers = {
            field.name: np.asarray(entry[field.name], np.float64)
            for field in fields(cls)
            if field.name != "mask"
        }
        return cls(mask=mask, **numbers)

    def to_json(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name).tolist() for field in fields(self)}

    @classmethod
    def load(cls, path: Path, key: str) -> "ActionStatistics":
        """Reads the entry `key` of a `dataset_statistics.json` as OpenVLA writes it.

        LIBERO policies that were trained without idle steps have `<suite>_no_noops` instead of
        `<suite>`; either is found under the suite's name.
        """
        if not path.is_file():
            raise UserError(f"There is no action statistics file at {path}; run the demos stage.")
        entries = json.loads(path.read_text())
        if key not in entries and f"{key}{NO_NOOPS}" in entries:
            key = f"{key}{NO_NOOPS}"
        if key not in entries:
            raise UserError(
                f"{path} has no statistics for '{key}'; it knows: {', '.join(sorted(entries))}."
            )
        return cls.from_json(entries[key]["action"])

    def save(self, path: Path, key: str) -> None:
        path.write_text(json.dumps({key: {"action": self.to_json()}}, indent=2))

    def normalize(self, actions: Array, clip: bool = True) -> Array:
        """Raw actions [..., A] -> [-1, 1]; dimensions that never move become 0.

        Labels of a policy are clipped to [-1, 1]; a world model is told the actions as they were.
        """
        xp, low, high = self._bounds(actions)
        scaled = 2.0 * (actions - low) / (high - low + 1e-8) - 1.0
        if clip:
            scaled = xp.clip(scaled, -1.0, 1.0)
        constant = _row(self.min == self.max, actions)
        return xp.where(constant, 0.0, xp.where(_row(self.mask, actions), scaled, actions))

    def unnormalize(self, actions: Array) -> Array:
        """Normalized actions [..., A] -> raw: 0.5 (a + 1)(q99 - q01 + 1e-8) + q01 where masked."""
        xp, low, high = self._bounds(actions)
        raw = 0.5 * (actions + 1.0) * (high - low + 1e-8) + low
        return xp.where(_row(self.mask, actions), raw, actions)

    def _bounds(self, actions: Array) -> tuple[ModuleType, np.ndarray, np.ndarray]:
        xp = jnp if isinstance(actions, jax.Array) else np
        return xp, _row(self.q01, actions), _row(self.q99, actions)


def _row(row_A: np.ndarray, actions: Array) -> np.ndarray:
    """[A] with as many leading axes of 1 as `actions` has."""
    return row_A.reshape((1,) * (actions.ndim - 1) + row_A.shape)
