"""One finished smoke run, shared by all tests of the stages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMOKE = "configs/tiny.py:smoke"


def start(*flags: str, config: str = SMOKE) -> subprocess.Popen:
    """`python -m wmpo_jax.main` in a process of its own."""
    command = [sys.executable, "-m", "wmpo_jax.main", f"--config={config}", *flags]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Exit status and what was written to stderr."""
    _, errors = process.communicate(timeout=900)
    return process.returncode, errors


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory) -> Path:
    """The workdir of a whole smoke run."""
    workdir = tmp_path_factory.mktemp("smoke") / "run"
    status, errors = finish(start(f"--workdir={workdir}"))
    assert status == 0, errors
    return workdir
