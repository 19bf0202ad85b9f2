"""The command of the benchmark: mistakes end with one sentence, and a small run leaves a record."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wmpo_jax.benchmark import __main__ as command

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--preset=huge"], "There is no preset 'huge'; choose from tiny, small"),
        (["--precision=float64"], "--precision is 'float64'; choose float32 or bfloat16"),
        (["--sections=imagination,sleep"], "There is no section 'sleep'"),
        (["--vs=numpy"], "the only other side is torch"),
        (["--repeats=0"], "--repeats is 0"),
        (["--clock=sun"], "--clock is 'sun'"),
        (["--out=record.txt"], "ends in .json"),
        (["--presets=tiny"], "There is no flag --presets=tiny"),
        (["--config.improve.groups=none"], "improve.groups"),
    ],
)
def test_misuse(flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(flags) == 2
    message = capsys.readouterr().err
    assert sentence in message and message.count("\n") == 1


@pytest.mark.slow
def test_a_run_prints_a_table_and_keeps_a_record(tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    flags = ("--sections=imagination", "--programs=policy", "--repeats=2", f"--out={out}")
    done = subprocess.run(
        [sys.executable, "-m", "wmpo_jax.benchmark", *flags],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads(out.read_text())
    (row,) = record["sections"]["imagination"]
    assert row["name"] == "policy" and row["seconds"]["runs"] == 2
    assert 0 < row["seconds"]["low"] <= row["seconds"]["median"] <= row["seconds"]["high"]
    assert row["rate"] == pytest.approx(row["count"] / row["seconds"]["median"])
    assert 0 < row["flop_share"] < 2 and row["operations"] > 1e6
    assert f"| policy | {row['detail']} |" in done.stdout
    assert out.with_suffix(".png").stat().st_size > 1000


def test_large_presets_are_for_accelerators(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--preset=released", "--sections=steps"]) == 2
    assert "for accelerators" in capsys.readouterr().err
