"""Off a terminal a job prints lines, with time left and its headline."""

import time

import pytest

from wmpo_jax.runtime import progress as module
from wmpo_jax.runtime.progress import PhaseTimer, progress


def test_lines_in_a_log(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_LINES", 0.0)
    with progress(10, 4, "sft") as bar:
        bar.headline(loss=0.3125)
        bar.advance(3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2  # one for the step, one at the end
    assert lines[0].startswith("sft: 7/10 [") and "loss 0.3125" in lines[0]


def test_a_last_batch_beyond_the_total_is_not_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(384, 0, "demos") as bar:
        bar.advance(256)
        bar.advance(256)
    assert capsys.readouterr().err.startswith("demos: 384/384 [")


def test_quiet_between_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(1000, 0, "sft") as bar:
        for _ in range(1000):
            bar.advance()
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_phases_add_up_and_start_over() -> None:
    timer = PhaseTimer()
    for _ in range(2):
        with timer("policy"):
            time.sleep(0.01)
    taken = timer.take()
    assert taken.keys() == {"seconds_policy"} and 0.02 <= taken["seconds_policy"] < 0.5
    assert timer.take() == {}
