"""The command of planning: mistakes end with one sentence."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wmpo_jax import plan
from wmpo_jax.planning.chips import GPUS
from wmpo_jax.planning.compiler import gpu_target

ROOT = Path(__file__).parents[2]
PLUGIN = importlib.util.find_spec("jax_cuda12_plugin") is not None


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


@pytest.mark.slow
@pytest.mark.skipif(not PLUGIN, reason="compiles for GPUs with the extra gpu_plan")
def test_a_machine_that_is_too_small_gets_advice() -> None:
    done = plan_program("--topology=24GB:2", "--phases=world_model,score")
    assert done.returncode == 1, done.stderr[-3000:]
    training, scoring = done.stdout.splitlines()[-2:]
    assert "NO: lower world_model.batch_size" in training
    assert scoring.startswith("| score |") and scoring.rstrip(" |").endswith("yes")


@pytest.mark.skipif(PLUGIN, reason="the extra gpu_plan is here")
def test_gpus_without_their_compiler_are_explained() -> None:
    done = plan_program("--topology=80GB:1", "--phases=score")
    assert done.returncode == 2
    assert "install the extra gpu_plan" in done.stderr and "Traceback" not in done.stderr


def test_what_xla_is_told_of_a_gpu() -> None:
    target = gpu_target(GPUS["80GB"])
    assert 'device_description_str: "NVIDIA H100 80GB HBM3"' in target
    assert "core_count: 132" in target and "ACCELERATED_FEATURES" in target
    assert "ACCELERATED_FEATURES" not in gpu_target(GPUS["24GB"])


def test_a_batch_that_does_not_divide_the_mesh() -> None:
    done = plan_program("--topology=v5e:2x2", "--phases=reward", "--config.reward.batch_size=6")
    assert done.returncode == 2
    assert (
        "reward.batch_size x accumulate = 6 cannot be spread over data x fsdp = 4 chips"
        in done.stderr
    )
