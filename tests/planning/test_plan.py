"""The command of planning: mistakes end with one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wmpo_jax import plan

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--topology=v9:2x2"], "There is no topology 'v9:2x2'"),
        (["--topology=80GB:65"], "up to 64"),
        (["--topology=v5p:²"], "There is no topology"),
        (["--topology=80GB:1", "--config=configs/tiny.py"], "has no section networks"),
        ([], "Give --topology"),
        (["--topology=80GB:1", "--phase=sft"], "There is no flag --phase=sft"),
    ],
)
def test_misuse(flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(flags) == 2
    assert sentence in capsys.readouterr().err


def plan_program(*flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "wmpo_jax.plan", *flags]
    # Other tests leave a number of pretend devices behind in XLA_FLAGS.
    environment = os.environ | {"XLA_FLAGS": ""}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )


def test_a_machine_that_is_too_small_gets_advice() -> None:
    done = plan_program("--topology=24GB:2", "--phases=world_model,score")
    assert done.returncode == 1, done.stderr[-3000:]
    training, scoring = done.stdout.splitlines()[-2:]
    assert "NO: lower world_model.batch_size" in training
    assert scoring.startswith("| score |") and scoring.rstrip(" |").endswith("yes")


def test_a_batch_that_does_not_divide_the_mesh() -> None:
    done = plan_program("--topology=80GB:3", "--phases=reward")
    assert done.returncode == 2
    assert (
        "reward.batch_size x accumulate = 64 cannot be spread over data x fsdp = 3 chips"
        in done.stderr
    )
