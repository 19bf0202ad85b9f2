"""What main runs, one file each, in the order of the paper."""

from wmpo_jax.stages.pipeline import check, run_all

__all__ = ["check", "run_all"]
