"""Three seeds become one table, and every episode a row."""

import numpy as np
import pytest

from wmpo_jax.report.collate import collate
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import save_arrays, save_json, save_record
from wmpo_jax.runtime.workdir import LAYOUT

TRUST = {
    "n": 4,
    "real_rate": 0.5,
    "imagined_rate": 0.25,
    "free_imagined_rate": 0.125,
    "agreement": 0.75,
    "precision": 1.0,
    "recall": 0.5,
}


def finished_run(folder, seed):
    save_json(folder / "config.json", {"seed": seed, "task": "press"})
    save_json(folder / "layout.json", {"version": LAYOUT})
    save_record(folder / "stages" / "evaluate.json", {"primary": "greedy", "seconds": 60.0})
    for stage in ("gates", "gates_after"):
        save_record(folder / "stages" / f"{stage}.json", TRUST)
    base, better = np.array([1, 0, 0, 0], bool), np.array([1, 1, 1, 0], bool)
    results = {"seeds": np.arange(4) + 10 * seed, "base_greedy": base, "base_sampled": base}
    results |= {"wmpo_greedy": better, "wmpo_sampled": base}
    save_arrays(folder / "data" / "evaluation" / "results.npz", results)
    return folder


def test_table_and_rows(tmp_path):
    runs = [finished_run(tmp_path / f"run{seed}", seed) for seed in range(3)]
    collate(tmp_path / "press", runs)
    page = (tmp_path / "press.md").read_text()
    assert "WMPO - base, greedy: +50.0 points" in page
    assert "WMPO - base, sampled: +0.0 points" in page
    assert page.count("| not run |") == 6
    assert "| 0 | before RL | 0.500 | 0.250 | 0.125 | 0.750 | 1.000 | 0.500 | 4 |" in page
    rows = (tmp_path / "press.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * 4
    assert rows[1] == "0,0,1,1,1,1"


def test_refuses_runs_of_one_seed_and_unevaluated_ones(tmp_path):
    run, twin = finished_run(tmp_path / "a", 0), finished_run(tmp_path / "b", 0)
    with pytest.raises(UserError, match="different config"):
        collate(tmp_path / "press", [run, twin])
    (run / "stages" / "evaluate.json").unlink()
    with pytest.raises(UserError, match="has not been evaluated"):
        collate(tmp_path / "press", [run])
    assert not (tmp_path / "press.md").exists()
