"""Prints where MuJoCo comes from in a worker, and whether what workers import is light."""

import sys

import mujoco

from wmpo_jax.envs.libero import worker
from wmpo_jax.envs.mimicgen import worker as mimicgen_worker

if __name__ == "__main__":
    heavy = {"jax", "flax", "torch", "tensorflow", "ml_collections"} & sys.modules.keys()
    print(mujoco.__file__, *heavy or ["light"])
    assert worker and mimicgen_worker
