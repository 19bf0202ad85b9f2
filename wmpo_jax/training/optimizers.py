"""AdamW and Muon with the schedules that all supervised trainings share."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import jax
import optax

from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.precision import Products
from wmpo_jax.training.muon import orthogonal_momentum


@dataclass(frozen=True)
class OptimizerConfig:
    """Which optimizer a training uses.

    Attributes:
      name: "adamw" or "muon".
      steps: of the whole training; the schedule's length.
      products: precision of Muon's own products.
    """

    learning_rate: float
    steps: int
    name: str = "adamw"
    weight_decay: float = 0.0
    products: Products = "float32"


def make_optimizer(training: str, config: OptimizerConfig, stacked: str) -> Any:
    """The optax transformation of `training`; `stacked` as for `muon`."""
    if config.name == "muon":
        return muon(config.learning_rate, config.steps, stacked, config.products)
    if config.name == "adamw":
        return adamw(config.learning_rate, config.steps, config.weight_decay)
    raise UserError(f"{training}.optimizer is {config.name!r}; change it to adamw or muon.")


def adamw(learning_rate: float, steps: int, weight_decay: float = 0.0) -> Any:
    """AdamW, gradients clipped at norm 1, short warm-up and cosine decay to a tenth."""
    schedule = _warmup_cosine(learning_rate, steps)
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=weight_decay)
    )


def muon(learning_rate: float, steps: int, stacked: str, products: Products = "float32") -> Any:
    """Muon for the matrices, Adam for the rest; clipping and schedule as in `adamw`.

    Updates have the size of Adam's, so that one learning rate serves both.

    Args:
      stacked: name of the part whose arrays, where its layers are scanned, hold one layer per entry
        of their leading axis.
      products: precision of the orthogonalization.
    """
    schedule = _warmup_cosine(learning_rate, steps)

    def labels(params: Any) -> Any:
        def label(path: Any, leaf: jax.Array) -> str:
            return "muon" if leaf.ndim - _stacked_axes(path, stacked) == 2 else "adam"

        return jax.tree_util.tree_map_with_path(label, params)

    parts: dict[Hashable, optax.GradientTransformation] = {
        "muon": optax.chain(orthogonal_momentum(products), optax.scale_by_learning_rate(schedule)),
        "adam": optax.adamw(schedule, weight_decay=0.0, nesterov=True),
    }
    return optax.chain(optax.clip_by_global_norm(1.0), optax.partition(parts, labels))


def _stacked_axes(path: Any, stacked: str) -> int:
    """1 where an array holds one layer per entry of its leading axis: no number names the layer."""
    words = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
    if stacked not in words:
        return 0
    behind = words[words.index(stacked) + 1 :]
    return 0 if behind and behind[0].isdigit() else 1


def _warmup_cosine(learning_rate: float, steps: int) -> optax.Schedule:
    steps = max(steps, 1)  # an imported network may be taken as it is
    return optax.warmup_cosine_decay_schedule(
        0.1 * learning_rate, learning_rate, min(50, steps // 4), steps, 0.1 * learning_rate
    )
