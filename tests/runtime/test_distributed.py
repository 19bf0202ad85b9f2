"""Two processes on this machine behave as two hosts: one stop, one writer, one checkpoint."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from wmpo_jax.runtime import distributed
from wmpo_jax.runtime.errors import UserError

HOST = """
import os, signal, sys, time
from wmpo_jax.runtime import distributed, preemption
distributed.initialize(cluster=False)
import jax, numpy as np
from ml_collections import ConfigDict
from wmpo_jax.runtime.checkpoints import Checkpoints
from wmpo_jax.runtime.mesh import make_mesh, replicate, spread_part
from wmpo_jax.runtime.workdir import Workdir
preemption.install()
config = ConfigDict({"mesh": {"data": -1, "fsdp": 1, "tensor": 1}})
mesh = make_mesh(config)
wait_a_moment = lambda: time.sleep(0.1)
with Workdir.open(sys.argv[1], config) as workdir:
    batch = spread_part(mesh, np.full((2, 3), jax.process_index(), np.float32), 4)
    total = float(jax.jit(lambda x: x.sum(), out_shardings=replicate(mesh, 0.0).sharding)(batch))
    checkpoints = Checkpoints(workdir.checkpoints("sft"))
    checkpoints.save(1, {"batch": batch})
    restored = checkpoints.restore_params({"batch": batch})["batch"]
    assert restored.sharding == batch.sharding and restored.shape == (4, 3)
    before = preemption.stop_requested()
    if jax.process_index() == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    stops = [wait_a_moment() or preemption.stop_requested() for _ in range(60)]
    workdir.ledger.append("collect", "rollouts", episodes=4)
    workdir.mark_done("sft", {"total": total})
    print(jax.process_index(), total, before, stops.index(True), workdir.result("sft"), flush=True)
"""


@pytest.mark.slow
def test_two_hosts(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", HOST, str(tmp_path)],
            env=os.environ
            | {
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": "",
                "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(index),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    ends = [host.communicate(timeout=120) for host in hosts]
    lines = [out.splitlines()[-1].split(maxsplit=4) if out else err for out, err in ends]
    for index, (host, total, before, _, result) in enumerate(lines):
        assert [host, total, before, result] == [str(index), "6.0", "False", "{'total': 6.0}"]
    assert lines[0][3] == lines[1][3]  # both stop at the same call


def test_half_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1234")
    monkeypatch.delenv("JAX_NUM_PROCESSES", raising=False)
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    with pytest.raises(UserError, match="JAX_NUM_PROCESSES is not"):
        distributed.initialize(cluster=False)


def test_numbers_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    with pytest.raises(UserError, match="JAX_NUM_PROCESSES is 'two'"):
        distributed.initialize(cluster=False)


@pytest.mark.parametrize(
    ("address", "processes", "index", "says"),
    [
        ("localhost:1", "2", "5", "JAX_PROCESS_ID is 5 and JAX_NUM_PROCESSES 2"),
        ("localhost:1", "2", "2", "from 0 to one less"),
        ("localhost:1", "0", "0", "from 0 to one less"),
        ("localhost:1", "2", "-1", "JAX_PROCESS_ID is '-1'"),
        ("localhost:1", "2", "9" * 5000, "set it to a whole number"),
        ("localhost", "2", "0", "set it to host:port"),
        ("localhost:http", "2", "0", "set it to host:port"),
        ("localhost:99999", "2", "0", "set it to host:port"),
        ("", "2", "0", "set it to host:port"),
    ],
)
def test_variables_that_make_no_sense(
    address: str, processes: str, index: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", address)
    monkeypatch.setenv("JAX_NUM_PROCESSES", processes)
    monkeypatch.setenv("JAX_PROCESS_ID", index)
    with pytest.raises(UserError, match=says):
        distributed.initialize(cluster=False)


@pytest.mark.parametrize(
    "error", [ValueError("coordinator_address should be defined."), KeyError("SLURM_NODEID")]
)
def test_no_cluster(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def initialize(**arguments: object) -> None:
        raise error

    monkeypatch.setattr(distributed.jax.distributed, "initialize", initialize)
    monkeypatch.setattr(distributed.watch, "before_abort", lambda action: None)
    with pytest.raises(UserError, match="--cluster finds no TPU pod, Slurm job"):
        distributed.initialize(cluster=True)
