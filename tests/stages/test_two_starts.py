"""Two commands at once in one fresh folder."""

import json
from pathlib import Path

import pytest

from tests.stages.processes import finish, start


@pytest.mark.slow
def test_one_runs_under_its_own_config(tmp_path: Path) -> None:
    """The other says one sentence, and has left nothing of its own."""
    workdir = tmp_path / "run"
    flags = (f"--workdir={workdir}", "--stages=demos", "--config.demos.episodes=8")
    both = {seed: start(*flags, f"--config.seed={seed}") for seed in (1, 2)}
    ends = {seed: finish(process) for seed, process in both.items()}
    assert sorted(status for status, _ in ends.values()) == [0, 2], ends
    winner = next(seed for seed, (status, _) in ends.items() if status == 0)
    (loser,) = ends.keys() - {winner}
    said = [line for line in ends[loser][1].splitlines() if line.startswith("wmpo_jax: ")]
    assert len(said) == 1 and "Traceback" not in ends[loser][1]
    in_use = f"{workdir} is in use by process {both[winner].pid}: wait for it, stop it, or use"
    if in_use not in said[0]:  # it came when the other had ended
        assert f"{workdir} was made with another config (seed was {winner}, is {loser})" in said[0]
    assert json.loads((workdir / "config.json").read_text())["seed"] == winner
    (entry, _) = map(json.loads, (workdir / "ledger.jsonl").read_text().splitlines())
    assert entry["seeds"][0] == winner * 1_000_000
    assert not [path for path in workdir.rglob(".*")]
