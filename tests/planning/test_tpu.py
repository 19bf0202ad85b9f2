"""The full-size programs, compiled for TPUs that are not here: they fit, and send what they should.

Each takes minutes of a core (v5p's together 22), so that `pytest` alone compiles only the quickest;
all of them: `pytest --pods tests/planning/test_tpu.py`, in CI a job of its own.
"""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.planning.compiled_programs import TOPOLOGIES
from wmpo_jax.planning.programs import PHASES

ROOT = Path(__file__).parents[2]
ALWAYS = ("score", "v5p:4x4x4")
ALL = [
    pytest.param(phase, topology, marks=() if (phase, topology) == ALWAYS else pytest.mark.pods)
    for topology in TOPOLOGIES
    for phase in PHASES
]
SPLIT = {"sft", "world_model", "update", "imagine"}  # whose layers are split, and so gathered

pytestmark = pytest.mark.slow


@cache
def compiled(phase: str, topology: str) -> dict[str, Any]:
    """Once per session, in a process of its own, which gives its gigabytes back."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        command = [sys.executable, "-m", "tests.planning.compiled_programs"]
        done = subprocess.run(
            [*command, phase, topology, str(path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=3600,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(path.read_text())


@pytest.mark.parametrize(("phase", "topology"), ALL)
def test_fits_the_chip(phase: str, topology: str) -> None:
    result = compiled(phase, topology)
    assert result["complete"]
    assert result["peak"] < result["memory"]


@pytest.mark.parametrize(("phase", "topology"), ALL)
def test_weights_travel_layer_by_layer(phase: str, topology: str) -> None:
    result = compiled(phase, topology)
    assert result["stray"] == []
    assert result["in_loops"] > 0 or phase not in SPLIT


@pytest.mark.pods
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_nothing_is_sent_while_frames_are_denoised(topology: str) -> None:
    result = compiled("imagine", topology)
    assert result["denoises"]  # its loop was found
    assert result["while_denoising"] == []
