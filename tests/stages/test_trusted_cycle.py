"""Real checks, the alarm and the lifelong loop on models of the smoke run, which know little."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tests.stages.processes import finish, start
from tests.stages.test_cycle import newest_checkpoint
from wmpo_jax.runtime.config import load_config
from wmpo_jax.runtime.files import load_record, save_json

# A base policy that succeeds now and then, and a world model of thirty steps.
DEMONSTRATION = [
    "sft.steps=300",
    "improve.iterations=8",
    "improve.learning_rate=2e-3",
    "improve.groups=8",
    "improve.minibatch=32",
    "monitor.every=2",
    "monitor.episodes=128",
]


def changed(smoke_run: Path, folder: Path, again: list[str], overrides: list[str]) -> Path:
    """A copy of the smoke run with another config, in which the stages `again` have never run."""
    copy = shutil.copytree(smoke_run, folder / "run")
    for stage in again:
        (copy / "stages" / f"{stage}.json").unlink()
        shutil.rmtree(copy / "checkpoints" / stage, ignore_errors=True)
        shutil.rmtree(copy / "data" / stage, ignore_errors=True)
    save_json(copy / "config.json", load_config("configs/tiny.py:smoke", overrides).to_dict())
    return copy


def go_on(workdir: Path, stages: list[str], overrides: list[str]) -> str:
    """Runs the stages; what was written to stderr."""
    flags = [f"--config.{override}" for override in overrides]
    status, errors = finish(start(f"--workdir={workdir}", f"--stages={','.join(stages)}", *flags))
    assert status == 0, errors
    return errors


def ledger(workdir: Path) -> dict[str, dict[str, Any]]:
    """By name."""
    lines = map(json.loads, (workdir / "ledger.jsonl").read_text().splitlines())
    return {line["name"]: line for line in lines}


def test_checks_are_recorded_and_their_episodes_counted(smoke_run):
    improve = load_record(smoke_run / "stages/improve.json", "improve")
    assert [(c["iteration"], c["n"]) for c in improve["checks"]] == [(0, 32), (1, 32), (2, 32)]
    assert ledger(smoke_run)["monitor"]["episodes"] == improve["monitor_episodes"] == 96
    assert not ledger(smoke_run)["monitor"]["used_for_training"]
    lines = (smoke_run / "metrics/improve.jsonl").read_text().splitlines()
    logged = [json.loads(line)["improve/real_success"] for line in lines]
    assert logged == [check["real_success"] for check in improve["checks"]]


def test_an_undertrained_world_model_is_exploited_and_the_alarm_sounds(smoke_run, tmp_path):
    overrides = DEMONSTRATION
    workdir = changed(smoke_run, tmp_path, ["sft", "improve"], overrides)
    go_on(workdir, ["sft", "improve", "report"], overrides)
    improve = load_record(workdir / "stages/improve.json", "improve")
    first, last = improve["checks"][0], improve["checks"][-1]
    assert last["imagined_success"] >= first["imagined_success"]
    assert last["real_success"] < first["real_success"]
    assert improve["iterations"] < 8, "it was not stopped"
    assert "exploits errors of the world model" in improve["stopped"]
    assert improve["policy"][0] == "sft"
    assert "exploits errors of the world model" in (workdir / "report/index.html").read_text()


def test_failed_gates_make_the_base_policy_the_result(smoke_run, tmp_path):
    overrides = ["gates.enforce=True"]
    workdir = changed(smoke_run, tmp_path, ["improve"], overrides)
    gates = load_record(workdir / "stages/gates.json", "gates")
    assert not all(gate["passed"] for gate in gates["gates"].values())
    (workdir / "stages/gates.json").unlink()
    go_on(workdir, ["gates", "improve", "report"], overrides)
    improve = load_record(workdir / "stages/improve.json", "improve")
    assert improve["policy"] == ["sft", 40] and improve["imagined_episodes"] == 0
    assert "Gates failed before reinforcement" in (workdir / "report/index.html").read_text()


def test_a_second_round_collects_with_the_improved_policy_and_aligns(smoke_run, tmp_path):
    overrides = ["lifelong.starts=(2,)"]
    workdir = changed(smoke_run, tmp_path, ["evaluate"], overrides)
    later = ["collect_2", "world_model_2", "reward_2", "improve_2"]
    go_on(workdir, [*later, "evaluate", "report"], overrides)
    found = {stage: load_record(workdir / f"stages/{stage}.json", stage) for stage in later}
    assert (found["collect_2"]["episodes"], found["world_model_2"]["step"]) == (16, 10)
    assert ledger(workdir)["rollouts_2"]["seeds"][0] > ledger(workdir)["rollouts"]["seeds"][1]
    before, after = (newest_checkpoint(workdir, s) for s in ("world_model", "world_model_2"))
    assert before.keys() == after.keys()
    assert any(not np.array_equal(before[name], after[name]) for name in before)
    assert "improve 2" in (workdir / "report/index.html").read_text()
