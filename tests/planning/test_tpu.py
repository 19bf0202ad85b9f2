"""The full-size programs, compiled for TPUs that are not here: they fit, and send what they should.

Two phases per topology, the ones that are tightest there: a compilation takes half a minute.
"""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CASES = [
    ("update", "v5p:4x4x4"),
    ("imagine", "v5p:4x4x4"),
    ("world_model", "v5e:8x8"),
    ("score", "v5e:8x8"),
]
# The largest matrix of one layer: Llama's MLP; the world model's modulation.
LARGEST_MATRIX = {"update": 4096 * 11008, "imagine": 4096 * 11008, "world_model": 1152 * 6912}
DENOISING_STEPS = 30

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
            timeout=900,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(path.read_text())


@pytest.mark.parametrize(("phase", "topology"), CASES)
def test_fits_the_chip(phase: str, topology: str) -> None:
    result = compiled(phase, topology)
    assert result["complete"]
    assert result["peak"] < result["memory"]


@pytest.mark.parametrize(("phase", "topology"), CASES[:3])
def test_weights_are_gathered_layer_by_layer(phase: str, topology: str) -> None:
    gathers = [one for one in compiled(phase, topology)["sent"] if one["kind"] == "all-gather"]
    assert any(one["loops"] for one in gathers)  # they are split, so something is gathered
    too_large = [one for one in gathers if one["elements"] > LARGEST_MATRIX[phase]]
    assert too_large == []


def test_nothing_is_sent_while_frames_are_denoised() -> None:
    sent = compiled("imagine", "v5p:4x4x4")["sent"]
    assert [one for one in sent if DENOISING_STEPS in one["loops"]] == []
