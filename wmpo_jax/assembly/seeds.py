"""Which initial states belong to whom: ranges of seeds that cannot overlap.

An initial state is a function of its seed alone. Every role (demonstrations, evaluation, ...) of
every run owns a block of a million seeds, so nothing is evaluated on a start it was trained on.
"""

import zlib

import jax
import numpy as np

from wmpo_jax.runtime.errors import UserError

ROLES = (
    "demos",
    "play",
    "rollouts",
    "imagination",
    "gates",
    "evaluation",
    "oracle",
    "grpo_on_rollouts",
    "monitor",
)
BLOCK = 1_000_000
MAX_RUN_SEED = 200  # len(ROLES) * MAX_RUN_SEED * BLOCK stays below 2**31


def seed_range(role: str, run_seed: int, start: int, count: int) -> np.ndarray:
    """int32 seeds [count] number `start`, `start + 1`, ... of the block of `role` in this run.

    Raises:
      UserError: `run_seed` outside 0..199 or more than a million starts asked for.
    """
    if not 0 <= run_seed < MAX_RUN_SEED:
        raise UserError(f"config.seed is {run_seed}; choose one from 0 to {MAX_RUN_SEED - 1}.")
    if start + count > BLOCK:
        raise UserError(f"{role} asks for {start + count} initial states; at most {BLOCK} exist.")
    base = (ROLES.index(role) * MAX_RUN_SEED + run_seed) * BLOCK
    return np.arange(base + start, base + start + count, dtype=np.int32)


def key_for(name: str, run_seed: int) -> jax.Array:
    """The PRNG key of one user of randomness (a stage) in this run."""
    return jax.random.fold_in(jax.random.key(run_seed), zlib.crc32(name.encode()))


def span(seeds: np.ndarray) -> list[int]:
    """[lowest, highest] for the ledger."""
    return [int(seeds.min()), int(seeds.max())]
