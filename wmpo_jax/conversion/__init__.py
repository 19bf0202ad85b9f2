"""Checkpoints of the original PyTorch programs: import, export, and ready-to-call objects.

`python -m wmpo_jax.convert` converts; the functions below load what it made (docs/checkpoints.md).
"""

from wmpo_jax.conversion.load import (
    load_policy,
    load_reward_model,
    load_world_model,
    spread_over,
)
from wmpo_jax.conversion.state_dicts import from_state_dict, to_state_dict
from wmpo_jax.conversion.store import Store, save_trained

__all__ = [
    "Store",
    "from_state_dict",
    "load_policy",
    "load_reward_model",
    "load_world_model",
    "save_trained",
    "spread_over",
    "to_state_dict",
]
