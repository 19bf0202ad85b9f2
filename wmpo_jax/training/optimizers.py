"""AdamW and Muon with the schedules that all supervised trainings share."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from wmpo_jax.runtime.errors import UserError


@dataclass(frozen=True)
class OptimizerConfig:
    """Which optimizer a training uses.

    Attributes:
      name: "adamw" or "muon".
      steps: of the whole training; the schedule's length.
    """

    learning_rate: float
    steps: int
    name: str = "adamw"
    weight_decay: float = 0.0


def make_optimizer(training: str, config: OptimizerConfig, stacked: str) -> Any:
    """The optax transformation of `training`; `stacked` as for `muon`."""
    if config.name == "muon":
        return muon(config.learning_rate, config.steps, stacked)
    if config.name == "adamw":
        return adamw(config.learning_rate, config.steps, config.weight_decay)
    raise UserError(f"{training}.optimizer is {config.name!r}; change it to adamw or muon.")


def adamw(learning_rate: float, steps: int, weight_decay: float = 0.0) -> Any:
    """AdamW, gradients clipped at norm 1, short warm-up and cosine decay to a tenth."""
    schedule = _warmup_cosine(learning_rate, steps)
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=weight_decay)
    )


def muon(learning_rate: float, steps: int, stacked: str) -> Any:
    """Muon for the matrices, Adam for the rest; clipping and schedule as in `adamw`.

    Updates have the size of Adam's, so that one learning rate serves both.

    Args:
      stacked: name of the part whose arrays hold one layer per entry of their leading axis. Layers
        are orthogonalized one by one (XLA:CPU is slow at batches of small matrices).
    """
    inner = optax.contrib.muon(_warmup_cosine(learning_rate, steps), consistent_rms=0.2)

    def layers(tree: Any) -> Any:
        def split(path: Any, leaf: jax.Array) -> Any:
            return tuple(leaf) if stacked in jax.tree_util.keystr(path) else leaf

        return jax.tree_util.tree_map_with_path(split, tree)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        split, state = inner.update(layers(updates), state, layers(params))
        restored = [
            jnp.stack(leaf) if isinstance(leaf, tuple) else leaf
            for leaf in jax.tree.leaves(split, is_leaf=lambda node: isinstance(node, tuple))
        ]
        return jax.tree.unflatten(jax.tree.structure(updates), restored), state

    layerwise = optax.GradientTransformation(lambda params: inner.init(layers(params)), update)
    return optax.chain(optax.clip_by_global_norm(1.0), layerwise)


def _warmup_cosine(learning_rate: float, steps: int) -> optax.Schedule:
    steps = max(steps, 1)  # an imported network may be taken as it is
    return optax.warmup_cosine_decay_schedule(
        0.1 * learning_rate, learning_rate, min(50, steps // 4), steps, 0.1 * learning_rate
    )
