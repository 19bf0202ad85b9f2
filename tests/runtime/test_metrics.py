"""Metrics of a resumed run continue the file without repeating a step."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.metrics import MetricWriter, read_metrics


def steps(directory: Path) -> list[float]:
    return [record["step"] for record in read_metrics(directory / "sft.jsonl")]


def test_resume_drops_what_is_about_to_be_made_again(tmp_path: Path) -> None:
    with MetricWriter(tmp_path, "sft") as writer:
        for step in (10, 20, 30):
            writer.write(step, {"loss": jnp.float32(0.5)})
    with (tmp_path / "sft.jsonl").open("a") as file:
        file.write('{"step": 40, "sft/lo')  # killed in the middle of a line
    with MetricWriter(tmp_path, "sft", resume_step=20) as writer:
        assert steps(tmp_path) == [10, 20]
        writer.write(30, {"loss": 0.25})
    assert steps(tmp_path) == [10, 20, 30]
    assert read_metrics(tmp_path / "sft.jsonl")[-1]["sft/loss"] == 0.25


def test_a_stage_that_starts_over_starts_its_file_over(tmp_path: Path) -> None:
    for _ in range(2):
        with MetricWriter(tmp_path, "sft") as writer:
            writer.write(1, {"loss": 1.0})
    assert steps(tmp_path) == [1]


def test_no_metrics_yet(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_tensorboard_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec

    def without_clu(name: str, *rest: Any) -> Any:
        return None if name == "clu" else find_spec(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without_clu)
    with pytest.raises(UserError, match=r"needs clu: pip install 'wmpo_jax\[tensorboard\]'"):
        MetricWriter(tmp_path, "sft", tensorboard=True)


WRITE_EVENTS = """
import sys
from pathlib import Path
from wmpo_jax.runtime.metrics import MetricWriter

with MetricWriter(Path(sys.argv[1]), "sft", tensorboard=True) as writer:
    writer.write(1, {"loss": 0.5})
"""


@pytest.mark.slow
def test_tensorboard_events_are_written(tmp_path: Path) -> None:
    # In a process of its own: tensorflow and Mesa's OpenGL (the camera tests) bring two LLVMs, and
    # the second one to be loaded aborts the process.
    command = [sys.executable, "-c", WRITE_EVENTS, str(tmp_path)]
    subprocess.run(command, check=True, timeout=300)
    (events,) = (tmp_path / "sft").iterdir()
    assert b"sft/loss" in events.read_bytes()


def test_a_torn_line_is_left_out_and_garbage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "sft.jsonl"
    whole = b'{"step": 1, "sft/loss": 0.5}\n{"step": 2, "sft/loss": NaN}\n'
    for end in (b'{"step": 3, "s', b"\xff\n", b"[3]\n", b'{"loss": 1}\n'):
        path.write_bytes(whole + end)
        assert [record["step"] for record in read_metrics(path)] == [1, 2]
    for line in (b"garbage\n", b"\n", b"{}\n", b'{"step": 1, "sft/loss": "low"}\n'):
        path.write_bytes(line + whole)
        with pytest.raises(UserError, match=r"sft\.jsonl is damaged at line 1: delete this file"):
            read_metrics(path)
    path.unlink()  # the advice
    assert read_metrics(path) == []


FULL = """
import resource, sys
from pathlib import Path
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.metrics import MetricWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    with MetricWriter(Path(sys.argv[1]), "sft") as writer:
        for step in range(9):
            writer.write(step, {"loss": 1.0})
except UserError as error:
    print(error)
"""


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.startswith("Metrics could not be written to ") and not done.stderr
    assert "(File too large): make room" in done.stdout
    assert [record["step"] for record in read_metrics(tmp_path / "sft.jsonl")] == [0]
