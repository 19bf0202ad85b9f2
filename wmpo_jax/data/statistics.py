"""Statistics of a dataset's actions, and the one normalization that is derived from them.

Policies predict normalized actions: the 1 % and 99 % quantiles of the demonstrations become -1 and
1 (what OpenVLA calls BOUNDS_Q99; reference at 09f60b7:
verl/utils/vla_utils/openvla_oft/modeling_prismatic.py:1378-1397). Dimensions with mask False (the
gripper) are left as they are.
"""

import json
from collections.abc import Mapping
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
NEEDED = ("q01", "q99")
# A dimension whose quantiles are closer than this share of its range rests in 98 % of the steps (a
# button, a gripper that is pressed once): its range is what becomes -1 and 1. Datasets of Open
# X-Embodiment have outliers of some thousand quantile widths, hence a share that is smaller yet.
RARE = 1e-4
# A range below this share of the values themselves is rounding.
CONSTANT = 1e-6
# Unclipped normalized actions end here: what is farther out is a fault of the recording.
LIMIT = 10.0


@dataclass(frozen=True, eq=False)
class ActionStatistics:
    """One row per number: all arrays are float64 [A], `mask` is bool [A] (True = normalized).

    Statistics that come with a checkpoint may lack `min` and `max`, `mean` and `std`: the quantiles
    and the mask are enough to act.
    """

    q01: np.ndarray
    q99: np.ndarray
    mask: np.ndarray
    min: np.ndarray | None = None
    max: np.ndarray | None = None
    mean: np.ndarray | None = None
    std: np.ndarray | None = None

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
    def from_json(cls, entry: Mapping[str, Any], where: str = "The entry") -> "ActionStatistics":
        """From the `action` entry of a `dataset_statistics.json`; q01 and q99 have to be there.

        Args:
          where: names the file in messages.

        Raises:
          UserError: q01 or q99 is missing, a row has another length than q01 or holds something
            that is not a finite number, the mask holds something that is not true or false, or a
            lower bound is above the upper one.
        """
        lacking = [name for name in NEEDED if not isinstance(entry, Mapping) or name not in entry]
        if lacking:
            raise UserError(
                f"{where} of action statistics has no {' and no '.join(lacking)}: copy the file "
                "that came with the data or the weights again."
            )
        rows = {
            field.name: _numbers(entry[field.name], f"{field.name} of {where}")
            for field in fields(cls)
            if field.name != "mask" and (field.name in NEEDED or entry.get(field.name) is not None)
        }
        mask = entry.get("mask")
        if mask is None:
            mask = [True] * len(rows["q01"])
        if not isinstance(mask, list) or not all(item in (True, False) for item in mask):
            raise UserError(
                f"The mask of {where} is not made of true and false: copy the file again."
            )
        rows["mask"] = np.asarray(mask, bool)
        _check_rows(rows, where)
        return cls(**rows)

    def to_json(self) -> dict[str, Any]:
        rows = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: row.tolist() for name, row in rows.items() if row is not None}

    @classmethod
    def load(cls, path: Path, key: str) -> "ActionStatistics":
        """Reads the entry `key` of a `dataset_statistics.json` as OpenVLA writes it.

        LIBERO policies that were trained without idle steps have `<suite>_no_noops` instead of
        `<suite>`; either is found under the suite's name.
        """
        if not path.is_file():
            raise UserError(f"There is no action statistics file at {path}; run the demos stage.")
        try:
            entries = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not JSON ({error}): copy it again.") from error
        if not isinstance(entries, dict):
            raise UserError(f"{path} is not an object of datasets: copy it again.")
        if key not in entries and f"{key}{NO_NOOPS}" in entries:
            key = f"{key}{NO_NOOPS}"
        if key not in entries:
            raise UserError(
                f"{path} has no statistics for '{key}'; it knows: {', '.join(sorted(entries))}."
            )
        entry = entries[key].get("action", {}) if isinstance(entries[key], dict) else {}
        return cls.from_json(entry, f"{path}, {key},")

    def save(self, path: Path, key: str) -> None:
        path.write_text(json.dumps({key: {"action": self.to_json()}}, indent=2))

    @property
    def constant_A(self) -> np.ndarray:
        """bool [A]: dimensions that never move."""
        if self.min is None or self.max is None:
            return self.mask & (self.q01 == self.q99)
        size = np.maximum(np.abs(self.min), np.abs(self.max))
        return self.max - self.min <= CONSTANT * size

    @property
    def rare_A(self) -> np.ndarray:
        """bool [A]: dimensions that move so rarely that their quantiles do not tell their range."""
        if self.min is None or self.max is None:
            return np.zeros_like(self.mask)
        narrow = self.q99 - self.q01 <= RARE * (self.max - self.min)
        return narrow & self.mask & ~self.constant_A

    def normalize(self, actions: Array, clip: bool = True) -> Array:
        """Raw actions [..., A] -> [-1, 1]; dimensions that never move become 0.

        Labels of a policy are clipped to [-1, 1]; a world model gets the actions as they were, up
        to LIMIT.
        """
        xp, low, high = self._bounds(actions)
        scaled = 2.0 * (actions - low) / (high - low + 1e-8) - 1.0
        limit = 1.0 if clip else LIMIT
        scaled = xp.where(_row(self.mask, actions), xp.clip(scaled, -limit, limit), actions)
        return xp.where(_row(self.constant_A, actions), 0.0, scaled)

    def unnormalize(self, actions: Array) -> Array:
        """Normalized actions [..., A] -> raw: 0.5 (a + 1)(q99 - q01 + 1e-8) + q01 where masked.

        Dimensions that never move get the value that they always have.
        """
        xp, low, high = self._bounds(actions)
        raw = 0.5 * (actions + 1.0) * (high - low + 1e-8) + low
        raw = xp.where(_row(self.mask, actions), raw, actions)
        return xp.where(_row(self.constant_A, actions), low, raw)

    def _bounds(self, actions: Array) -> tuple[ModuleType, np.ndarray, np.ndarray]:
        xp = jnp if isinstance(actions, jax.Array) else np
        low, high = self.q01, self.q99
        if self.min is not None and self.max is not None:
            low = np.where(self.rare_A, self.min, low)
            high = np.where(self.rare_A, self.max, high)
        return xp, _row(low, actions), _row(high, actions)


def _numbers(value: Any, where: str) -> np.ndarray:
    numbers = isinstance(value, list) and all(type(item) in (int, float) for item in value)
    if not numbers:
        raise UserError(f"{where} is not a row of numbers: copy the file again.")
    try:
        row = np.asarray(value, np.float64)
    except OverflowError:  # a whole number of hundreds of digits
        row = np.asarray([np.inf])
    if not len(row) or not np.isfinite(row).all():
        raise UserError(f"{where} is not a row of finite numbers: copy the file again.")
    return row


def _check_rows(rows: dict[str, np.ndarray], where: str) -> None:
    lengths = {name: len(row) for name, row in rows.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"{where} has rows of different lengths ({lengths}): copy the file again.")
    for low, high in (("q01", "q99"), ("min", "max")):
        if low in rows and high in rows and (rows[low] > rows[high]).any():
            raise UserError(f"{where} has a {low} above its {high}: copy the file again.")


def _row(row_A: np.ndarray, actions: Array) -> np.ndarray:
    """[A] with as many leading axes of 1 as `actions` has."""
    return row_A.reshape((1,) * (actions.ndim - 1) + row_A.shape)
