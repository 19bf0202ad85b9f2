"""What main runs, one file each, in the order of the paper."""

from wmpo_jax.stages.pipeline import run_all

__all__ = ["run_all"]
