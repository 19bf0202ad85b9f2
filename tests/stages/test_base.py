"""What a run takes over from another one, and what it refuses to."""

import json
from pathlib import Path
from typing import Any

import pytest

from wmpo_jax.runtime.config import load_config
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.workdir import Workdir
from wmpo_jax.stages import base
from wmpo_jax.stages.pipeline import CYCLE

ENDED = {"sft": 6, "autoencoder": 6, "world_model": 8, "reward": 6, "improve": 2}  # step
FIRST = ["demos", "sft", "collect"]
MODELS = ["autoencoder", "world_model", "reward"]


def config(**changes: Any) -> Any:
    found = load_config("configs/tiny.py:smoke")
    found.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return found


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run whose cycle has ended, with a file for each thing that stages leave."""
    workdir = Workdir(tmp_path / "finished", config())
    for stage in CYCLE:
        step = ENDED.get(stage)
        for number in () if step is None else (step - 1, step):
            file = workdir.checkpoints(stage) / str(number) / "params" / "array"
            file.parent.mkdir(parents=True)
            file.write_text(f"{stage} {number}")
        workdir.metrics.mkdir(exist_ok=True)
        (workdir.metrics / f"{stage}.jsonl").write_text("{}\n")
        workdir.ledger.append(stage, f"episodes of {stage}", episodes=4)
        workdir.mark_done(stage, {"seconds": 1.0}, step=step)
    for name in ("demos", "play", "rollouts", "evaluation"):
        (workdir.data(name) / "results.npz").write_text(name)
    return workdir.path


def begin(finished: Path, **changes: Any) -> Workdir:
    """A second run with other settings."""
    other = config(**changes)
    path = finished.parent / "other"
    found = base.find(finished, other, path)
    with Workdir.open(path, other) as workdir:
        found.take_over(workdir)
        return workdir


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"improve__learning_rate": 1e-4, "improve__epochs": 2}, [*FIRST, *MODELS, "gates"]),
        ({"improve__clip_low": 0.1, "gates__episodes": 4}, [*FIRST, *MODELS]),
        ({"world_model__align_steps": 9}, [*FIRST, "autoencoder"]),
        ({"sft__steps": 9, "improve__epochs": 2}, ["demos"]),
        ({"evaluate__videos": 1}, list(CYCLE)[:-1]),
        ({"grpo_on_rollouts__settings": ((2, 0.1),)}, list(CYCLE)),
        ({"oracle__iterations": 1, "cpu_devices": 1, "tensorboard": False}, list(CYCLE)),
        ({}, list(CYCLE)),
    ],
)
def test_stages_before_the_first_change_are_taken_over(
    finished: Path, changes: dict[str, Any], expected: list[str]
) -> None:
    workdir = begin(finished, **changes)
    assert [stage for stage in CYCLE if workdir.done(stage)] == expected
    assert [entry["stage"] for entry in workdir.ledger.read()] == expected
    trained = {path.parent.name: path.name for path in workdir.path.glob("checkpoints/*/*")}
    assert trained == {stage: str(ENDED[stage]) for stage in expected if stage in ENDED}
    assert (workdir.data("demos") / "results.npz").read_text() == "demos"
    assert (workdir.path / "data/rollouts/results.npz").exists() == ("collect" in expected)
    assert (workdir.path / "data/evaluation/results.npz").exists() == ("evaluate" in expected)
    assert not any(path.name.startswith(".") for path in workdir.path.rglob("*"))


def test_more_iterations_go_on_from_the_last_one(finished: Path) -> None:
    workdir = begin(finished, improve__iterations=9, improve__checkpoint_every=3)
    assert not workdir.done("improve")
    assert (workdir.checkpoints("improve") / "2/params/array").read_text() == "improve 2"
    assert (workdir.metrics / "improve.jsonl").exists()


def test_fewer_iterations_or_other_settings_begin_anew(finished: Path) -> None:
    for changes in ({"improve__iterations": 1}, {"improve__iterations": 9, "improve__epochs": 2}):
        assert base.find(finished, config(**changes), Path("/new")).improve_step is None


def test_the_first_run_stays_as_it_is(finished: Path) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    workdir = begin(finished, improve__iterations=9)
    workdir.ledger.append("improve", "starts", episodes=0)
    workdir.mark_done("improve", {"seconds": 2.0}, step=9)
    assert before == {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}


def test_again_and_after_an_interruption(finished: Path) -> None:
    changes = {"improve__epochs": 2}
    workdir = begin(finished, **changes)
    (workdir.path / "stages/reward.json").unlink()
    (workdir.path / "checkpoints/reward/6/params/array").unlink()
    again = begin(finished, **changes)
    assert again.done("reward")
    assert (again.path / "checkpoints/reward/6/params/array").read_text() == "reward 6"
    assert len(again.ledger.read()) == 7
    again.mark_done("improve", {"seconds": 2.0}, step=3)
    assert begin(finished, **changes).final_step("improve") == 3


def test_a_disk_without_links(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError("another disk")

    monkeypatch.setattr(base.os, "link", fail)
    assert begin(finished, improve__epochs=2).done("gates")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seed": 5}, "depend on seed, which was 0 and is 5"),
        ({"demos__noise": 0.5, "improve__epochs": 2}, r"depend on demos\.noise"),
        ({"policy__temperature": 2.0}, r"depend on policy\.temperature"),
    ],
)
def test_what_every_stage_depends_on(
    finished: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        begin(finished, **changes)
    assert not (finished.parent / "other").exists()


def test_no_run_to_begin_with(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, sentence in (
        (tmp_path / "none", "There is no run at --base="),
        (tmp_path / "empty", "is no workdir"),
        (tmp_path / "other", "are both"),
    ):
        with pytest.raises(UserError, match=sentence):
            base.find(path, config(), tmp_path / "other")
    for file in finished.glob("stages/*.json"):
        file.unlink()
    with pytest.raises(UserError, match=r"No stage of .* has ended"):
        base.find(finished, config(), tmp_path / "other")


def test_a_damaged_result_is_not_taken_over(finished: Path, tmp_path: Path) -> None:
    (finished / "stages/sft.json").write_text("{}")
    with pytest.raises(UserError, match=r"finished/stages/sft\.json .*damaged"):
        base.find(finished, config(improve__epochs=2), tmp_path / "other")


def test_a_workdir_of_its_own(finished: Path) -> None:
    other = finished.parent / "other"
    Workdir(other, config()).mark_done("demos", {"seconds": 1.0})
    with pytest.raises(UserError, match="began without --base"):
        begin(finished)
    (other / base.FILE).write_text(json.dumps({"run": "elsewhere", "stages": ["demos"]}))
    with pytest.raises(UserError, match="did not begin with --base"):
        begin(finished)
