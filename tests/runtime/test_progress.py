"""Off a terminal a job prints lines, with time left and its headline."""

import time
from datetime import timedelta

import pytest
from tqdm_loggable.tqdm_logging import tqdm_logging

from wmpo_jax.runtime import progress as module
from wmpo_jax.runtime.progress import PhaseTimer, progress


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "tqdm", tqdm_logging)


def test_lines_in_a_log(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tqdm_logging, "log_message_rate", timedelta(0))
    with progress(10, 4, "sft") as bar:
        bar.headline(loss=0.3125)
        time.sleep(0.11)  # tqdm looks at most ten times a second
        bar.advance(3)
    first, step, last = capsys.readouterr().err.splitlines()
    assert "sft" in first and "4.00it/10.0it" in first
    assert "7.00it/10.0it" in step and "loss 0.3125" in step
    assert "7.00it/10.0it" in last


def test_a_last_batch_beyond_the_total_is_not_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(384, 0, "demos") as bar:
        bar.advance(256)
        bar.advance(256)
    assert "384it/384it" in capsys.readouterr().err.splitlines()[-1]


def test_quiet_between_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(1000, 0, "sft") as bar:
        for _ in range(1000):
            bar.advance()
    assert len(capsys.readouterr().err.splitlines()) == 2  # the first and the last


def test_other_hosts_print_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.jax, "process_index", lambda: 1)
    with progress(2, 0, "sft") as bar:
        bar.advance(2)
    assert capsys.readouterr().err.splitlines() == []


def test_phases_add_up_and_start_over() -> None:
    timer = PhaseTimer()
    for _ in range(2):
        with timer("policy"):
            time.sleep(0.01)
    taken = timer.take()
    assert taken.keys() == {"seconds_policy"} and 0.02 <= taken["seconds_policy"] < 0.5
    assert timer.take() == {}
