"""`python -m wmpo_jax.main` in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SMOKE = "configs/tiny.py:smoke"


def start(*flags: str, config: str = SMOKE) -> subprocess.Popen:
    """`python -m wmpo_jax.main` in a process of its own."""
    command = [sys.executable, "-m", "wmpo_jax.main", f"--config={config}", *flags]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        # Without XLA_FLAGS: fixtures that call `environment.prepare` in this process leave a number
        # of devices there, and a run on one device is not bitwise a run on two.
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "",
            # A silent broadcast or transfer is an error.
            "JAX_NUMPY_RANK_PROMOTION": "raise",
            "WMPO_TRANSFER_GUARD": "disallow",
        },
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Exit status and what was written to stderr."""
    _, errors = process.communicate(timeout=900)
    return process.returncode, errors
