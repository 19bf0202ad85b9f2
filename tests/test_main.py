"""main answers with a sentence and an exit status."""

from pathlib import Path
from typing import Any

import pytest

from wmpo_jax import main as program
from wmpo_jax import stages
from wmpo_jax.runtime import environment, preemption
from wmpo_jax.runtime.errors import Preempted, UserError


@pytest.fixture(autouse=True)
def quiet_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves this process's signals and environment as they are."""
    monkeypatch.setattr(environment, "prepare", lambda cpu_devices: None)
    monkeypatch.setattr(preemption, "install", lambda: None)


def answer(error: Exception | None, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    def run_all(config: Any, workdir: Any, mesh: Any, names: Any) -> None:
        assert list(names) == ["demos", "sft"]
        if error:
            raise error

    monkeypatch.setattr(stages, "run_all", run_all)
    return program.main(
        ["--config=configs/tiny.py:smoke", f"--workdir={workdir}", "--stages=demos,sft"]
    )


@pytest.mark.parametrize(
    ("error", "status"), [(None, 0), (UserError("no room"), 2), (Preempted("stopped at 3"), 75)]
)
def test_exit_status(
    error: Exception | None,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert answer(error, tmp_path, monkeypatch) == status
    assert (str(error) if error else "workdir") in capsys.readouterr().err
    assert (tmp_path / "config.json").exists()


def test_a_bug_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        answer(ZeroDivisionError(), tmp_path, monkeypatch)


def test_unknown_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--config=configs/tiny.py", "--stage=sft"]) == 2
    assert "no flag --stage=sft" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--config=configs/tiny.py", "--config.task=nope"], "set config.task to one of"),
        (["--config=configs/tiny.py", "--stages=sfd"], "no stage sfd"),
        (["--config=configs/tiny.py", "--stages=demos,"], "no stage without a name"),
        (["--config=configs/tiny.py", "--config.writers=no_such:X"], "writer 'no_such:X'"),
        (["--config=configs/tiny.py", "--stages="], "--stages is empty: give it a value"),
        (["--config=configs/tiny.py", "--base="], "--base is empty"),
        (["--config=configs/tiny.py", "--base=no/such"], r"There is no run at --base="),
        (["--config=configs/tiny.py", "--config.policy.temperature=0"], "must be a number, above"),
        (
            ["--config=configs/libero.py", "--config.networks.weights.reward=no/such"],
            "networks.weights.reward = no/such does not exist",
        ),
        (["--config=configs/libero.py:smoke", "--config.libero.physics=warp"], "must be c or mjx"),
        (
            ["--config=configs/libero.py:tiny", "--config.libero.physics=mjx"],
            "task 1 is not supported in MJX",
        ),
    ],
)
def test_a_mistake_leaves_no_workdir(
    flags: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would belong to the mistaken config, and refuse the corrected one."""
    workdir = tmp_path / "run"
    assert program.main([*flags, f"--workdir={workdir}"]) == 2
    assert sentence in capsys.readouterr().err
    assert not workdir.exists()
