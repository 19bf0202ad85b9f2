"""Launchers: shellcheck passes, dry runs print what would happen, manifests fit their schema."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
FLAGS = ["--config=configs/libero.py:lora", "--config.seed=3", "--workdir=/shared/my run"]
JOBSET = {"IMAGE": "host/wmpo_jax", "CLAIM": "disk", "HOSTS": "16", "CHIPS": "4"}
SETTINGS = {
    "tpu_pod.sh": {"TPU": "pod", "ZONE": "us-east5-a", "REPO": "https://host/x.git"},
    "slurm.sh": {"NODES": "4", "GPUS": "8"},
    "gpu.sh": {"RUNS": "/data/runs"},
    "release.sh": {},
}


def dry_run(script: str, **settings: str) -> subprocess.CompletedProcess:
    # An empty PATH but for the basics: a dry run that executed anything real would fail.
    environment = {"PATH": "/usr/bin:/bin"} | settings
    command = ["bash", str(ROOT / "launch" / script), "--dry-run", *FLAGS]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script: Path) -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run(
        [shellcheck, "--external-sources", script], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SETTINGS)
def test_dry_run_prints_the_command_with_its_flags(script: str) -> None:
    done = dry_run(script, **SETTINGS[script])
    assert done.returncode == 0, done.stderr
    # The printed lines are shell again; what a remote shell gets is quoted once more.
    text = " ".join(shlex.split(done.stdout))
    assert "wmpo_jax" in text
    assert "--config=configs/libero.py:lora --config.seed=3 --workdir=/shared/my" in text


def test_dry_run_may_stand_anywhere_and_help_executes_nothing() -> None:
    script = ["bash", str(ROOT / "launch" / "gpu.sh")]
    environment = {"PATH": "/usr/bin:/bin", "ENGINE": "no-such-engine"}
    subprocess.run([*script, "--config=x", "--dry-run"], env=environment, check=True)
    helped = subprocess.run(
        [*script, "--help"], env=environment, capture_output=True, text=True, check=True
    )
    assert "RUNS (default ./runs)" in helped.stdout and "set -euo" not in helped.stdout


@pytest.mark.parametrize("script", ["tpu_pod.sh", "slurm.sh"])
def test_hosts_start_again_when_the_run_asks_for_it(script: str) -> None:
    text = " ".join(shlex.split(dry_run(script, **SETTINGS[script]).stdout))
    assert "$code = 75" in text and "--cluster" in text


@pytest.mark.parametrize("script", ["tpu_pod.sh", "slurm.sh", "gke.sh"])
def test_missing_settings_are_named(script: str) -> None:
    done = dry_run(script)
    assert done.returncode == 2
    assert "set " in done.stderr and done.stdout == ""


@pytest.mark.parametrize(
    "settings",
    [
        {"KIND": "tpu", "ACCELERATOR": "tpu-v5p-slice", "TOPOLOGY": "4x4x4"},
        {"KIND": "gpu", "ACCELERATOR": "nvidia-h100-80gb"},
    ],
)
def test_jobsets_fit_the_schema(settings: dict[str, str]) -> None:
    schema = json.loads((ROOT / "launch" / "jobset.schema.json").read_text())
    done = dry_run("gke.sh", **JOBSET, **settings)
    manifest = yaml.safe_load(done.stdout)
    jsonschema.validate(manifest, schema)
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert container["args"] == FLAGS
    assert job["parallelism"] == 16
    assert {entry["name"] for entry in container["env"]} == {
        "WMPO_JOIN_SECONDS",
        "JAX_COORDINATOR_ADDRESS",
        "JAX_NUM_PROCESSES",
        "JAX_PROCESS_ID",
    }
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**manifest, "spce": {}}, schema)


def test_unknown_kind() -> None:
    done = dry_run("gke.sh", **JOBSET, KIND="cloud", ACCELERATOR="x")
    assert done.returncode == 2 and "KIND is tpu or gpu" in done.stderr
