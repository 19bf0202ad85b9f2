"""The table of results from made-up runs: nothing is repeated, every episode is kept."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import table
from benchmarks.table import BASELINES, Run
from wmpo_jax.runtime.files import save_arrays, save_json, save_record
from wmpo_jax.runtime.workdir import LAYOUT

N = 8
BASE = np.arange(N) < 2
GAIN = {"wmpo": 6, "unaligned": 4, "lifelong": 7, "no_play": 3}


def finished(root: Path, run: Run) -> None:
    """What the table reads of a run: WMPO solves GAIN of N starts, base and baselines two."""
    path = root / run.name
    save_json(path / "config.json", {"seed": run.seed, "task": run.task})
    save_json(path / "layout.json", {"version": LAYOUT})
    for stage in ("demos", "sft", "collect", "autoencoder", "world_model", "reward"):
        save_record(path / "stages" / f"{stage}.json", {"seconds": 60.0})
    improve = {"seconds": 60.0, "iterations": 4, "imagined_episodes": 640}
    if run.kind == "unaligned":
        improve["stopped"] = "Real success fell."
    save_record(path / "stages" / "improve.json", improve)
    save_record(path / "stages" / "evaluate.json", {"primary": "greedy", "seconds": 60.0})
    ours, folder = np.arange(N) < GAIN[run.kind], path / "data" / "evaluation"
    arrays = {"seeds": np.arange(N), "base_greedy": BASE, "base_sampled": BASE}
    save_arrays(folder / "results.npz", arrays | {"wmpo_greedy": ours, "wmpo_sampled": ours})
    for name in BASELINES if run.kind == "wmpo" else ():
        best = {} if name == "grpo_online" else {"best_setting": 1}
        prefix = "1_" if best else ""
        save_record(path / "stages" / f"{name}.json", {"seconds": 60.0, **best})
        success = {f"{prefix}greedy": BASE, f"{prefix}sampled": BASE}
        save_arrays(folder / f"{name}.npz", success)
    entries = [("demos", 384), ("play", 1000), ("rollouts", run.budget), ("monitor", 256)]
    lines = [{"stage": "x", "name": name, "episodes": count} for name, count in entries]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (path / "ledger.jsonl").write_text(text)


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    return [
        *(str(tmp_path / "results"), f"--runs={tmp_path / 'runs'}", "--variant=smoke"),
        *("--tasks=press,push", "--budgets=128", "--seeds=0,1"),
    ]


def test_finished_runs_become_a_page_and_nothing_is_run(tmp_path, flags, monkeypatch) -> None:
    for task in ("press", "push"):
        for seed in (0, 1):
            for kind in table.KINDS:
                finished(tmp_path / "runs", Run(kind, task, 128, seed, "smoke"))
    monkeypatch.setattr(table.subprocess, "run", lambda command: pytest.fail(str(command)))
    assert table.main(flags) == 0
    page = (tmp_path / "results.md").read_text()
    assert "| press | 128 | 0.250 [0.102, 0.495] |" in page
    assert "- press, P = 128: WMPO - base +50.0 [" in page
    assert "- mean of tasks, P = 128: WMPO - WMPO, lifelong -12.5 [" in page
    assert "| 128 | WMPO | 512 | 1000 | 256 | 640 | 7.0 |" in page
    assert "| 128 | DPO | 512 | 0 | 0 | 0 | 4.0 |" in page
    assert "- push, P = 128, seed 1, WMPO, not aligned: Real success fell." in page
    cells = json.loads((tmp_path / "results.json").read_text())
    assert cells["push/128/1"]["wmpo greedy"] == "fc" and len(cells) == 4


def test_missing_runs_are_made_bases_first(tmp_path, flags, monkeypatch, capsys) -> None:
    asked = []

    def pretend(command: list[str]) -> table.subprocess.CompletedProcess:
        asked.append(command)
        name = next(flag for flag in command if flag.startswith("--workdir")).rpartition("/")[2]
        task, budget, seed, kind = name.split("_", 3)
        finished(tmp_path / "runs", Run(kind, task, int(budget), int(seed), "smoke"))
        return table.subprocess.CompletedProcess(command, 0)

    finished(tmp_path / "runs", Run("wmpo", "press", 128, 0, "smoke"))
    monkeypatch.setattr(table.subprocess, "run", pretend)
    assert table.main([*flags, "--kinds=wmpo,lifelong"]) == 0
    assert "--config.lifelong.starts=(4, 4)" in asked[0]
    assert f"--base={tmp_path / 'runs' / 'press_128_0_wmpo'}" in asked[0]
    assert "--config.collect.starts=8" in asked[0]
    assert asked[2][-1] == "--stages=filtered_bc,dpo,grpo_on_rollouts,grpo_online,report"
    assert len(asked) == 4 + 2 * 3  # a lifelong run is one command, the others two
    assert "1 of 8 runs are there" in capsys.readouterr().out


def test_a_failed_run_stops_the_table(flags, monkeypatch, capsys) -> None:
    failed = table.subprocess.CompletedProcess([], 2)
    monkeypatch.setattr(table.subprocess, "run", lambda command: failed)
    assert table.main(flags) == 2
    assert "press_128_0_wmpo ended with status 2" in capsys.readouterr().err
