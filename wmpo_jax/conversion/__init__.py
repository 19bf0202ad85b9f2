"""Checkpoints of the original PyTorch programs: in, out, and into ready-to-call objects.

`python -m wmpo_jax.convert` converts; the functions below load what it made (docs/checkpoints.md).
"""

from wmpo_jax.conversion.load import (
    load_policy,
    load_reward_model,
    load_world_model,
    spread_over,
)
from wmpo_jax.conversion.store import Store, save_trained

__all__ = [
    "Store",
    "load_policy",
    "load_reward_model",
    "load_world_model",
    "save_trained",
    "spread_over",
]
