"""The whole cycle at smoke size: each stage runs, is skipped when done, survives a kill."""

import contextlib
import itertools
import json
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.stages.processes import finish, start
from wmpo_jax.assembly.opened import open_run
from wmpo_jax.data.dataset import open_dataset
from wmpo_jax.data.episodes import read_episode
from wmpo_jax.envs import imagined
from wmpo_jax.runtime.files import load_arrays
from wmpo_jax.serving.policies import RunPolicy
from wmpo_jax.stages.pipeline import CYCLE


def newest_checkpoint(workdir: Path, stage: str) -> dict[str, np.ndarray]:
    """All arrays of the newest checkpoint of a stage, by path."""
    folder = workdir / "checkpoints" / stage
    step = max(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    tree = ocp.StandardCheckpointer().restore(folder / str(step) / "params")
    leaves = ocp.utils.to_flat_dict(tree)
    return {"/".join(map(str, path)): np.asarray(leaf) for path, leaf in leaves.items()}


def without(workdir: Path, stage: str, folder: Path) -> Path:
    """A copy of a finished run in which one stage has never run."""
    copy = shutil.copytree(workdir, folder / "run")
    (copy / "stages" / f"{stage}.json").unlink()
    shutil.rmtree(copy / "checkpoints" / stage)
    shutil.rmtree(copy / "data" / stage, ignore_errors=True)
    return copy


def wait_for(condition, process, seconds=300.0):
    """Polls until `condition()` or the process ends; True if the process is still alive."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and not condition():
        assert time.monotonic() < deadline, "the process made no progress"
        time.sleep(0.002)
    return process.poll() is None


def test_every_stage_leaves_its_result(smoke_run):
    for stage in CYCLE:
        result = json.loads((smoke_run / "stages" / f"{stage}.json").read_text())
        assert result["seconds"] > 0
    page = (smoke_run / "report" / "index.html").read_text()
    assert "WMPO" in page
    assert 'src="http' not in page and 'href="http' not in page


def test_a_finished_run_is_served_and_is_an_environment(smoke_run):
    run = open_run(smoke_run)
    served, envs = RunPolicy(run, "improve", "smoke"), imagined.make(smoke_run, num_envs=2)
    seen, _ = envs.reset(seed=0)
    actions_BKA = served(seen["image"], [envs.instructions[0]] * 2)
    assert actions_BKA.shape == envs.action_space.shape
    seen, *_ = envs.step(np.asarray(run.statistics.normalize(actions_BKA)))
    assert envs.observation_space.contains(seen)


def test_diagnosis_climbs_every_rung_for_both_policies(smoke_run, tmp_path):
    workdir = shutil.copytree(smoke_run, tmp_path / "run")
    status, errors = finish(start(f"--workdir={workdir}", "--stages=diagnose,report"))
    assert status == 0, errors
    policies = json.loads((workdir / "stages" / "diagnose.json").read_text())["policies"]
    assert list(policies) == ["base", "improved"]
    for report in policies.values():
        assert report["n"] == 32 and len(report["rungs"]) == 5
        # Latents that are pixels lose nothing, so that the policy acts the same.
        assert report["rungs"]["reconstructed"]["agreement"] == 1.0
        assert sum(row["n"] for row in report["by_miss"]) == 32
    assert "frames predicted one chunk ahead" in (workdir / "report" / "index.html").read_text()


def test_seeds_in_the_ledger_are_disjoint(smoke_run):
    lines = (smoke_run / "ledger.jsonl").read_text().splitlines()
    spans = sorted(tuple(json.loads(line)["seeds"]) for line in lines)
    different = sorted(set(spans))
    for (_, end), (begin, _) in itertools.pairwise(different):
        assert end < begin


def test_policy_was_aligned_on_exactly_the_budget(smoke_run):
    entries = [json.loads(line) for line in (smoke_run / "ledger.jsonl").read_text().splitlines()]
    (rollouts,) = [entry for entry in entries if entry["name"] == "rollouts"]
    config = json.loads((smoke_run / "config.json").read_text())
    assert rollouts["episodes"] == config["collect"]["starts"] * config["collect"]["group_size"]


def test_rollouts_are_a_dataset_for_others(smoke_run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    arrays = load_arrays(smoke_run / "data/rollouts/episodes.npz", "collect")
    dataset = open_dataset(smoke_run / "data/rollouts/dataset")
    assert len(dataset.episodes) == len(arrays["success_B"])
    seeds = set()
    for entry in dataset.episodes:
        episode = read_episode(dataset.source, entry.index)
        equal_B = (arrays["frames_BTHWC"] == episode.frames_FHWC).all((1, 2, 3, 4))
        place = int(np.flatnonzero(equal_B)[0])
        assert episode.info.success == arrays["success_B"][place]
        seeds.add(episode.info.seed)
    (ledger,) = [
        entry
        for entry in map(json.loads, (smoke_run / "ledger.jsonl").read_text().splitlines())
        if entry["name"] == "rollouts"
    ]
    assert [min(seeds), max(seeds)] == ledger["seeds"]


def test_the_same_command_again_changes_nothing(smoke_run):
    before = {p: p.stat().st_mtime_ns for p in (smoke_run / "checkpoints").rglob("*")}
    status, errors = finish(start(f"--workdir={smoke_run}"))
    assert status == 0, errors
    assert before == {p: p.stat().st_mtime_ns for p in (smoke_run / "checkpoints").rglob("*")}


@pytest.mark.parametrize("stage", ["sft", "improve"])
def test_killed_run_ends_bitwise_as_an_uninterrupted_one(smoke_run, tmp_path, stage):
    workdir = without(smoke_run, stage, tmp_path)
    folder = workdir / "checkpoints" / stage
    flags = (f"--workdir={workdir}", f"--stages={stage}")

    # kill -9 inside the first save
    process = start(*flags)
    assert wait_for(lambda: any("tmp" in path.name for path in folder.glob("*")), process)
    process.kill()
    status, _ = finish(process)
    assert status == -signal.SIGKILL
    assert not (workdir / "stages" / f"{stage}.json").exists()
    # SIGTERM during the first save: on a fast machine the last step follows soon after it
    left_over = {path: path.stat().st_mtime_ns for path in folder.glob("*")}
    process = start(*flags)
    assert wait_for(lambda: _modified(folder) - left_over.items(), process)
    process.send_signal(signal.SIGTERM)
    status, errors = finish(process)
    assert status == 75, errors
    assert not (workdir / "stages" / f"{stage}.json").exists()
    status, errors = finish(start(*flags))
    assert status == 0, errors

    expected, found = newest_checkpoint(smoke_run, stage), newest_checkpoint(workdir, stage)
    assert expected.keys() == found.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    if stage == "improve":
        checks, again = (
            load_arrays(run / "data/improve/checks.npz", stage) for run in (smoke_run, workdir)
        )
        jax.tree.map(np.testing.assert_array_equal, checks, again)


def _modified(folder: Path) -> set[tuple[Path, int]]:
    """What is in a folder, and when it was modified; a save may remove things meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        return {(path, path.stat().st_mtime_ns) for path in folder.iterdir()}
    return set()


def test_other_settings_on_top_of_a_finished_run(smoke_run, tmp_path):
    """Nothing is trained again but what depends on them; the finished run stays as it is."""
    before = {p: p.stat().st_mtime_ns for p in smoke_run.rglob("*") if p.is_file()}
    workdir = tmp_path / "run"
    changes = ("--config.improve.learning_rate=3e-4", "--config.improve.epochs=2")
    stages = "--stages=demos,sft,collect,autoencoder,world_model,reward,gates,improve"
    flags = (f"--workdir={workdir}", f"--base={smoke_run}", stages, *changes)
    status, errors = finish(start(*flags))
    assert status == 0, errors
    for stage in ("sft", "world_model"):
        old, new = newest_checkpoint(smoke_run, stage), newest_checkpoint(workdir, stage)
        assert all((old[name] == new[name]).all() for name in old)
        record = f"stages/{stage}.json"
        assert (workdir / record).read_text() == (smoke_run / record).read_text()
    old, new = newest_checkpoint(smoke_run, "improve"), newest_checkpoint(workdir, "improve")
    assert any((old[name] != new[name]).any() for name in old)
    assert json.loads((workdir / "config.json").read_text())["improve"]["epochs"] == 2
    assert before == {p: p.stat().st_mtime_ns for p in smoke_run.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_more_iterations_on_top_of_a_finished_run(smoke_run, tmp_path):
    """The bits of a run that had as many from the start."""
    flags = ("--stages=improve", "--config.improve.iterations=3")
    shorter = without(smoke_run, "improve", tmp_path / "shorter")
    for name, base in (("at once", shorter), ("in two parts", smoke_run)):
        status, errors = finish(start(f"--workdir={tmp_path / name}", f"--base={base}", *flags))
        assert status == 0, errors
    assert not (tmp_path / "in two parts/checkpoints/improve/1").exists()
    whole, continued = (
        newest_checkpoint(tmp_path / name, "improve") for name in ("at once", "in two parts")
    )
    for name in whole:
        np.testing.assert_array_equal(continued[name], whole[name], err_msg=name)
    logs = [tmp_path / name / "metrics/improve.jsonl" for name in ("at once", "in two parts")]
    steps = [[json.loads(line)["step"] for line in log.read_text().splitlines()] for log in logs]
    assert steps == [[0, 1, 2, 3], [0, 1, 2, 3]]  # 0: the check before the first
