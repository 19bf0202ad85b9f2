"""The reference's initial states are read as numbers, and nothing in their file is executed."""

import os
import pickle

import numpy as np
import pytest

from wmpo_jax.envs.mimicgen.env import MimicgenEnv
from wmpo_jax.envs.mimicgen.states import read
from wmpo_jax.runtime.errors import UserError

XML = """<mujoco><worldbody>
  <body name="peg1" pos="0.2 0.1 0.85"><body name="inner" pos="9 9 9"/></body>
  <body name="table" pos="0 0 0.8" quat="1 0 0 0"/>
</worldbody></mujoco>"""
STATES = np.linspace(0.0, 1.0, 45)
OPTIONS = {"horizon": 16, "workers": 1, "wave": 2}


class Attack:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def written(tmp_path, rows, protocol=4):
    file = tmp_path / "square_d0_states.pkl"
    file.write_bytes(pickle.dumps(rows, protocol=protocol))
    return file


@pytest.mark.parametrize("protocol", range(6))
def test_numbers_and_places_are_read(tmp_path, protocol):
    rows = [{"states": STATES, "model": XML}, {"states": STATES[::-1], "model": XML}]
    first, second = read(written(tmp_path, rows, protocol))
    np.testing.assert_array_equal(first.numbers, STATES)
    np.testing.assert_array_equal(second.numbers, STATES[::-1])
    assert first.places.keys() == {"peg1", "table"}
    assert first.places["peg1"].tolist() == [0.2, 0.1, 0.85]
    assert first.places["table"].tolist() == [0, 0, 0.8, 1, 0, 0, 0]


def test_files_of_numpy_1_are_read(tmp_path):
    rows = [{"states": STATES, "model": XML}]
    file = written(tmp_path, rows, protocol=2)
    assert b"numpy._core" in file.read_bytes()
    file.write_bytes(file.read_bytes().replace(b"numpy._core", b"numpy.core"))
    np.testing.assert_array_equal(read(file)[0].numbers, STATES)


def test_code_in_the_file_is_not_run(tmp_path):
    file = written(tmp_path, [{"states": Attack(tmp_path / "made"), "model": XML}])
    with pytest.raises(UserError, match=r"it calls posix\.mkdir"):
        read(file)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "rows",
    [
        [],
        {},
        [3],
        [{"states": STATES}],
        [{"states": STATES * np.nan, "model": XML}],
        [{"states": np.array(["a"]), "model": XML}],
        [{"states": STATES, "model": "<mujoco"}],
    ],
)
def test_what_else_a_file_may_hold_is_refused(tmp_path, rows):
    with pytest.raises(UserError, match=r"config\.mimicgen\.states"):
        read(written(tmp_path, rows))


def test_a_torn_or_missing_file_is_refused(tmp_path):
    file = written(tmp_path, [{"states": STATES, "model": XML}])
    file.write_bytes(file.read_bytes()[:100])
    for path in (file, tmp_path / "none.pkl"):
        with pytest.raises(UserError, match=r"config\.mimicgen\.states"):
            read(path)


def test_evaluation_takes_them_in_order_and_its_hash_follows_their_content(tmp_path):
    file = written(tmp_path, [{"states": STATES, "model": XML}] * 3)
    env = MimicgenEnv("robosuite_square", 64, OPTIONS | {"states": str(file)})
    assert [env._start(int(start)).init for start in env.held_out(0, 3)] == [0, 1, 2]
    assert env._start(5).init == -1
    with pytest.raises(UserError, match="holds 3 initial states and 4"):
        env.held_out(0, 4)
    moved = file.rename(tmp_path / "moved.pkl")
    same = MimicgenEnv("robosuite_square", 64, OPTIONS | {"states": str(moved)})
    without = MimicgenEnv("robosuite_square", 64, OPTIONS)
    moved_hash, plain_hash = same.protocol()["sha256"], without.protocol()["sha256"]
    moved.rename(file)
    assert env.protocol()["sha256"] == moved_hash != plain_hash
