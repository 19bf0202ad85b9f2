"""A workdir holds whole files, belongs to one config and to one process at a time."""

import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from wmpo_jax.runtime import files
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.workdir import Workdir

CONFIG = ConfigDict({"seed": 0, "shape": (1, 2), "mesh": {"data": 1}, "sft": {"steps": 9}})


def test_the_same_config_may_come_back_on_another_machine(tmp_path: Path) -> None:
    Workdir(tmp_path, CONFIG)
    elsewhere = ConfigDict(CONFIG.to_dict() | {"mesh": {"data": 8}})
    Workdir(tmp_path, elsewhere)


def test_another_config_is_refused_with_both_values(tmp_path: Path) -> None:
    Workdir(tmp_path, CONFIG)
    other = ConfigDict(CONFIG.to_dict() | {"sft": {"steps": 10}})
    with pytest.raises(UserError, match=r"sft.steps was 9, is 10\).*--workdir"):
        Workdir(tmp_path, other)


def test_a_file_in_the_way_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="not writable"):
        Workdir(tmp_path / "file" / "run", CONFIG)


def test_a_full_disk_is_noticed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(5 * 2**20))
    with pytest.raises(UserError, match="Only 5 MB are free"):
        Workdir(tmp_path, CONFIG)


def test_results_and_ledger(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path, CONFIG)
    with pytest.raises(UserError, match="sft has not run"):
        workdir.result("sft")
    for episodes in (64, 128):  # an interrupted stage runs twice and counts once
        workdir.ledger.append("collect", "rollouts", episodes=episodes)
    workdir.ledger.append("evaluate", "base", episodes=10)
    assert [entry["episodes"] for entry in workdir.ledger.read()] == [128, 10]
    workdir.mark_done("sft", {"steps": 9})
    assert Workdir(tmp_path, CONFIG).done("sft")
    assert workdir.result("sft") == {"steps": 9}


def test_one_process_at_a_time_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path, CONFIG)
    code = (
        "import fcntl, os, sys, time; f = open(sys.argv[1], 'a+');"
        "fcntl.flock(f, fcntl.LOCK_EX); f.write(str(os.getpid())); f.flush();"
        "print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    other.stdout.readline()
    with pytest.raises(UserError, match=f"in use by process {other.pid}"), workdir.lock():
        pass
    other.kill()
    other.wait()
    with workdir.lock():
        pass


def test_arrays_survive_and_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "data" / "episodes.npz"
    frames = np.arange(4000, dtype=np.uint8)
    files.save_arrays(path, {"frames": frames, "count": 3})
    assert np.array_equal(files.load_arrays(path, "demos")["frames"], frames)
    whole = path.read_bytes()
    flipped = whole[:1000] + bytes([whole[1000] ^ 255]) + whole[1001:]
    for damaged in (whole[:-50], whole[:100], b"", flipped):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"episodes.npz is damaged .*stages/demos.json"):
            files.load_arrays(path, "demos")
    path.unlink()
    with pytest.raises(UserError, match="missing"):
        files.load_arrays(path, "demos")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    files.save_json(path, {"a": 1})
    with pytest.raises(TypeError):
        files.save_json(path, {"a": object()})
    with pytest.raises(ValueError, match="Object arrays"):
        files.save_arrays(path, {"a": np.asarray([object()])})
    assert files.load_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_damaged_json(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text('{"a": ')
    with pytest.raises(UserError, match="damaged"):
        files.load_json(path)
