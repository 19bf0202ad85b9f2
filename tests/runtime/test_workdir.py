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
from wmpo_jax.runtime.workdir import Workdir, read_config

CONFIG = ConfigDict({"seed": 0, "shape": (1, 2), "mesh": {"data": 1}, "sft": {"steps": 9}})


OTHER = ConfigDict(CONFIG.to_dict() | {"sft": {"steps": 10}})


def begun(path: Path) -> Path:
    """A workdir that belongs to CONFIG."""
    workdir = Workdir(path, CONFIG)
    workdir.mark_done("demos", {"episodes": 4})
    workdir.ledger.append("demos", "demos", episodes=4)
    return path


def test_the_same_config_may_come_back_on_another_machine(tmp_path: Path) -> None:
    elsewhere = ConfigDict(CONFIG.to_dict() | {"mesh": {"data": 8}})
    Workdir(begun(tmp_path), elsewhere)


def test_another_config_is_refused_with_both_values(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sft.steps was 9, is 10\).*--workdir"):
        Workdir(begun(tmp_path), OTHER)
    (tmp_path / "stages" / "demos.json").unlink()
    (tmp_path / "checkpoints" / "sft" / "10").mkdir(parents=True)
    with pytest.raises(UserError, match="another config"):
        Workdir(tmp_path, OTHER)


@pytest.mark.parametrize("stored", [None, "[]", "{", ""])
def test_a_failed_start_leaves_the_workdir_free(tmp_path: Path, stored: str | None) -> None:
    Workdir(tmp_path, CONFIG).ledger.append("demos", "demos", episodes=4)
    if stored is not None:
        (tmp_path / "config.json").write_text(stored)
    assert Workdir(tmp_path, OTHER).ledger.read() == []
    assert read_config(tmp_path)["sft"] == {"steps": 10}


@pytest.mark.parametrize("content", [None, "[]", "{}", '{"seed": ', "\xff"])
def test_results_without_their_config_are_not_continued(tmp_path: Path, content: str) -> None:
    path = begun(tmp_path) / "config.json"
    path.unlink() if content is None else path.write_bytes(content.encode("latin-1"))
    for config in (CONFIG, OTHER):
        with pytest.raises(UserError, match=r"config\.json .* use another --workdir"):
            Workdir(tmp_path, config)
    assert not path.exists() or path.read_bytes() == content.encode("latin-1")


@pytest.mark.parametrize("content", [None, "[]", '{"version": 1}'])
def test_a_workdir_of_another_layout(tmp_path: Path, content: str | None) -> None:
    path = begun(tmp_path) / "layout.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match="no workdir of this version"):
        Workdir(tmp_path, CONFIG)


RECORDS = {
    "empty": "{}",
    "list": "[]",
    "torn": '{"episodes": ',
    "changed": '{"episodes": 5, "crc32": 3406432370}',
    "old": '{"episodes": 4}',
}


@pytest.mark.parametrize("content", RECORDS.values(), ids=RECORDS)
def test_a_damaged_result_is_refused_before_work_begins(tmp_path: Path, content: str) -> None:
    (begun(tmp_path) / "stages" / "demos.json").write_text(content)
    advice = r"demos.json .*: delete stages/demos\.json in the workdir and run again, stage demos"
    with pytest.raises(UserError, match=advice):
        Workdir(tmp_path, CONFIG)
    # The advice.
    (tmp_path / "stages" / "demos.json").unlink()
    assert not Workdir(tmp_path, CONFIG).done("demos")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_result_that_is_not_finite_is_not_recorded(tmp_path: Path, value: float) -> None:
    workdir = Workdir(tmp_path, CONFIG)
    with pytest.raises(UserError, match=r"a\.b\[1\] is not a finite number"):
        workdir.mark_done("reward", {"a": {"b": [1.0, value]}})
    assert not workdir.done("reward")


def test_the_step_that_a_stage_ended_with(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path, CONFIG)
    with pytest.raises(UserError, match="Stage sft has not run"):
        workdir.final_step("sft")
    workdir.mark_done("sft", {"loss": 0.5}, step=9)
    assert workdir.final_step("sft") == 9


def test_a_torn_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = begun(tmp_path) / "ledger.jsonl"
    whole = path.read_bytes()
    for torn in (whole[:-1], whole[:9], b'{"a": 1}\n', b"[]\n"):
        path.write_bytes(whole + torn)
        assert len(Workdir(tmp_path, CONFIG).ledger.read()) == 1
        assert "ledger.jsonl is torn" in capsys.readouterr().err
    path.write_bytes(b"garbage\n" + whole)
    with pytest.raises(UserError, match=r"ledger.jsonl is damaged at line 1: .*--workdir"):
        Workdir(tmp_path, CONFIG)


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


HOLDER = """
import fcntl, os, sys, time
file = open(sys.argv[1], "a+")
fcntl.flock(file, fcntl.LOCK_EX)
file.write(str(os.getpid()))
file.flush()
print("held", flush=True)
time.sleep(60)
"""


def test_one_process_at_a_time_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    other = subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()
    refused = pytest.raises(UserError, match=f"in use by process {other.pid}")
    with refused, Workdir.open(tmp_path, CONFIG):
        pass
    assert not (tmp_path / "config.json").exists()  # which would be this one's, not the holder's
    other.kill()
    other.wait()
    with Workdir.open(tmp_path, CONFIG):
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
    np.savez(path, images=frames)
    with pytest.raises(UserError, match=r"no array frames, so another version .*stage demos"):
        files.load_arrays(path, "demos", ("frames", "count"))
    path.unlink()
    with pytest.raises(UserError, match="missing"):
        files.load_arrays(path, "demos")


def test_no_bit_of_an_array_file_changes_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "episodes.npz"
    arrays = {"frames": np.arange(6, dtype=np.uint8).reshape(2, 3), "n": 3, "f": np.float32(0.5)}
    files.save_arrays(path, arrays)
    whole, refused = path.read_bytes(), 0
    for place in range(0, len(whole), 3):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :]
        )
        try:
            found = files.load_arrays(path, "demos")
        except UserError:
            refused += 1
            continue
        assert found.keys() == arrays.keys()  # a date, for example
        for name, value in arrays.items():
            np.testing.assert_array_equal(found[name], value, strict=name == "frames")
    assert refused > len(whole) / 6


@pytest.mark.parametrize("content", [b"[1, 2]", b"\x93NUMPY\x01\x00", b"PK\x05\x06" + bytes(18)])
def test_no_npz(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "episodes.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match="stage demos writes it"):
        files.load_arrays(path, "demos", ("frames",))


def test_two_processes_do_not_make_one_folder(tmp_path: Path) -> None:
    target = tmp_path / "imported" / "policy"
    with files.new_folder(target) as folder:
        (folder / "weights").write_text("first")
        with pytest.raises(UserError, match="Another process is making"), files.new_folder(target):
            pass
        assert not target.exists()
    assert (target / "weights").read_text() == "first"
    assert list(target.parent.iterdir()) == [target]
    with pytest.raises(UserError, match="exists already"), files.new_folder(target):
        pass
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_that_was_not_made_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), files.new_folder(tmp_path / "a" / "b") as folder:
        (folder / "half").touch()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    files.save_json(path, {"a": 1})
    with pytest.raises(TypeError):
        files.save_json(path, {"a": object()})
    with pytest.raises(ValueError, match="Object arrays"):
        files.save_arrays(path, {"a": np.asarray([object()])})
    assert files.load_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_a_place_below_a_file_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "result.json", tmp_path / "file" / "deeper" / "result.json"):
        with pytest.raises(UserError, match=r"could not be written: (Not a directory|File exists)"):
            files.save_json(path, {})


def test_damaged_json(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text('{"a": ')
    with pytest.raises(UserError, match=r"result\.json could not be read as JSON"):
        files.load_json(path)
