"""Evaluation starts are never trained on."""

import itertools

import jax
import numpy as np
import pytest

from wmpo_jax.assembly.seeds import BLOCK, MAX_RUN_SEED, ROLES, key_for, seed_range
from wmpo_jax.runtime.errors import UserError


def test_roles_and_runs_never_share_a_seed():
    firsts = [
        seed_range(role, run, 0, 1)[0]
        for role, run in itertools.product(ROLES, (0, 1, MAX_RUN_SEED - 1))
    ]
    gaps = np.diff(np.sort(firsts).astype(np.int64))
    assert gaps.min() >= BLOCK


def test_batches_of_a_role_follow_each_other():
    whole = seed_range("imagination", 3, 0, 20)
    parts = [seed_range("imagination", 3, start, 5) for start in (0, 5, 10, 15)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert whole.dtype == np.int32 and (whole >= 0).all()


def test_refuses_what_does_not_fit():
    with pytest.raises(UserError, match=r"config\.seed is 200"):
        seed_range("demos", 200, 0, 1)
    with pytest.raises(UserError, match="at most 1000000"):
        seed_range("demos", 0, BLOCK, 1)


def test_keys_differ_between_users():
    names = [*ROLES, "sft", "world_model", "reward", "improve"]
    keys = {tuple(np.asarray(jax.random.key_data(key_for(name, 0)))) for name in names}
    assert len(keys) == len(names)
