"""Two processes train as one does; a lost one stops the other; a restart needs only one of them."""

import signal
from pathlib import Path

import numpy as np
import pytest

from tests.data.conftest import make_episode
from tests.runtime import two_hosts
from tests.runtime.two_hosts import difference, end_of_the_other, finish, newest_step, parameters
from wmpo_jax.data.formats import WRITERS
from wmpo_jax.runtime.files import load_arrays, load_json

SMALL = "tests.runtime.small_stages"
STAGES = ("memory", "stream", "reinforce", "simulate")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Flags for training from a dataset on disk."""
    path = tmp_path_factory.mktemp("own") / "set.hdf5"
    WRITERS["hdf5"](path, [make_episode(number, 14) for number in range(4)])
    return f"--config.data.source={path}", "--config.task="


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, own_data: tuple[str, ...]) -> Path:
    """The workdir of one process with two devices."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    flags = (f"--workdir={workdir}", f"--stages={','.join(STAGES)}", *own_data)
    ((status, errors),) = finish(two_hosts.start(SMALL, 1, *flags))
    assert status == 0, errors[-3000:]
    return workdir


def test_two_hosts_end_where_one_does(
    tmp_path: Path, alone: Path, own_data: tuple[str, ...]
) -> None:
    """With data in memory, their rows of a dataset on disk, groups in a world, simulators."""
    flags = (f"--workdir={tmp_path}", f"--stages={','.join(STAGES)}", *own_data)
    ends = finish(two_hosts.start(SMALL, 2, *flags))
    assert [status for status, _ in ends] == [0, 0], ends
    for stage in ("memory", "stream", "reinforce"):
        assert difference(parameters(tmp_path, stage), parameters(alone, stage)) < 1e-5
        logs = [folder / "metrics" / f"{stage}.jsonl" for folder in (tmp_path, alone)]
        lines = [log.read_text().splitlines() for log in logs]
        assert len(lines[0]) == len(lines[1])  # one host writes
    found, expected = (
        load_arrays(folder / "data/simulate/episodes.npz", "simulate")
        for folder in (tmp_path, alone)
    )
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    played = [load_json(f / "stages/simulate.json")["waves"] for f in (tmp_path, alone)]
    assert len(played[0]) == 4 and len(played[1]) == 6  # two of three waves, twice
    assert not list(tmp_path.glob(".part*"))


def test_a_killed_host_stops_the_other_and_one_process_goes_on(
    tmp_path: Path, alone: Path, own_data: tuple[str, ...]
) -> None:
    """The two are tensor ranks: both need all rows of a batch."""
    flags = (f"--workdir={tmp_path}", *own_data)
    tensor = "--config.mesh.tensor=2"
    first, second = two_hosts.start(SMALL, 2, "--stages=stream,slow", tensor, *flags)
    two_hosts.wait_for(lambda: newest_step(tmp_path, "stream") > 0)
    errors = end_of_the_other(second, first, signal.SIGKILL)
    assert "wmpo_jax: another host was lost" in errors
    assert "continues from the newest checkpoint" in errors
    assert newest_step(tmp_path, "stream") < 30

    ((status, errors),) = finish(two_hosts.start(SMALL, 1, "--stages=stream", *flags))
    assert status == 0, errors[-3000:]
    assert difference(parameters(tmp_path, "stream"), parameters(alone, "stream")) < 1e-5


def test_a_notice_to_one_host_stops_both_at_the_same_step(tmp_path: Path) -> None:
    processes = two_hosts.start(SMALL, 2, f"--workdir={tmp_path}", "--stages=memory,slow")
    two_hosts.wait_for(lambda: newest_step(tmp_path, "memory") > 0)
    processes[1].send_signal(signal.SIGTERM)
    ends = finish(processes)
    assert [status for status, _ in ends] == [75, 75], ends
    stops = {errors.partition("stopped at step ")[2].split()[0] for _, errors in ends}
    assert stops == {str(newest_step(tmp_path, "memory"))}


@pytest.mark.parametrize(
    ("lost", "how", "message"),
    [
        (0, signal.SIGKILL, "the coordinator localhost"),
        (1, signal.SIGSTOP, "host 1 has been silent for 4 s"),
    ],
)
def test_a_host_outside_any_collective_notices(
    tmp_path: Path, lost: int, how: signal.Signals, message: str
) -> None:
    processes = two_hosts.start(SMALL, 2, f"--workdir={tmp_path}", "--stages=idle,impatient")
    two_hosts.wait_for(lambda: len(list(tmp_path.glob("idle_*"))) == 2)
    errors = end_of_the_other(processes[lost], processes[1 - lost], how)
    assert f"wmpo_jax: another host was lost ({message}" in errors


def test_hosts_with_different_configs_say_so(tmp_path: Path) -> None:
    other = ({}, {"MORE_FLAGS": "--config.seed=1"})
    flags = (f"--workdir={tmp_path}", "--stages=idle")
    ends = finish(two_hosts.start(SMALL, 2, *flags, environments=other))
    assert [status for status, _ in ends] == [2, 2], ends
    assert all("Host 1 was started with another config than host 0" in e for _, e in ends)
    assert not (tmp_path / "config.json").exists()


def test_a_coordinator_that_does_not_answer(tmp_path: Path) -> None:
    nobody = {
        "JAX_COORDINATOR_ADDRESS": "localhost:1",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "1",
        "WMPO_JOIN_SECONDS": "3",
    }
    ((status, errors),) = finish(
        two_hosts.start(SMALL, 1, f"--workdir={tmp_path}", environments=(nobody,))
    )
    assert status == 2, errors[-3000:]
    assert "did not bring all hosts together within 3 s" in errors
