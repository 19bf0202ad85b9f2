"""Plugged-in writers get what the JSON lines hold; a resumed CSV repeats no step."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from wmpo_jax.runtime import metric_sinks
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.metrics import MetricWriter, read_metrics


class Recorder:
    """A writer as a user would write one."""

    written: ClassVar[list[tuple[str, int, dict[str, float]]]] = []
    closed = 0

    def __init__(self, directory: Path, stage: str, resume_step: int) -> None:
        self.stage = f"{stage} from {resume_step}"

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        Recorder.written.append((self.stage, step, dict(scalars)))

    def close(self) -> None:
        Recorder.closed += 1


def rows(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text().splitlines()))


def test_csv_continues_where_the_run_does(tmp_path):
    with MetricWriter(tmp_path, "sft", writers="csv") as writer:
        for step in (10, 20):
            writer.write(step, {"loss": 0.1 + step, "rate": 1e-7})
    with (tmp_path / "sft.csv").open("a") as file:
        file.write("20,sft/lo")  # killed in the middle of a row
    with MetricWriter(tmp_path, "sft", resume_step=10, writers="csv") as writer:
        writer.write(20, {"loss": 0.5})
    expected = [["10", "sft/loss", "10.1"], ["10", "sft/rate", "1e-07"], ["20", "sft/loss", "0.5"]]
    assert rows(tmp_path / "sft.csv") == [["step", "name", "value"], *expected]


def test_new_run_begins_a_new_csv(tmp_path):
    for _ in range(2):
        with MetricWriter(tmp_path, "sft", writers="csv") as writer:
            writer.write(10, {"loss": 1.0})
    assert len(rows(tmp_path / "sft.csv")) == 2


def test_own_writer_gets_the_names_and_values_of_the_json_lines(tmp_path):
    with MetricWriter(tmp_path, "sft", 5, writers=f" csv, {__name__}:Recorder") as writer:
        writer.write(10, {"loss": 0.25})
    (record,) = read_metrics(tmp_path / "sft.jsonl")
    assert Recorder.written == [("sft from 5", 10, {"sft/loss": record["sft/loss"]})]
    assert Recorder.closed == 1


@pytest.mark.parametrize("name", ["cvs", "nowhere:Writer", f"{__name__}:Missing", "os:system"])
def test_writer_that_does_not_exist_is_a_user_error(tmp_path, name):
    with pytest.raises(UserError, match=r"config\.writers"):
        MetricWriter(tmp_path, "sft", writers=name)
    with pytest.raises(UserError, match=r"config\.writers"):
        metric_sinks.check(f"csv, {name}")


def test_a_writer_whose_module_fails_is_a_user_error(tmp_path, monkeypatch):
    (tmp_path / "broken_writer.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"cannot be loaded \(division by zero\)"):
        metric_sinks.check("broken_writer:Writer")


@pytest.mark.parametrize("row", [b"ten,sft/loss,1\n", b"\n\n", b"\xff,sft/loss,1\n"])
def test_a_damaged_csv_is_named(tmp_path, row):
    (tmp_path / "sft.csv").write_bytes(b"step,name,value\n" + row)
    with pytest.raises(UserError, match=r"sft\.csv is damaged .*delete this file"):
        MetricWriter(tmp_path, "sft", resume_step=10, writers="csv")
