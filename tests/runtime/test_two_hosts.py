"""Two processes train as one does; a lost one stops the other; a restart needs only one of them."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

PROGRAM = """
import os, sys
import jax, jax.numpy as jnp, numpy as np
from ml_collections import ConfigDict
from wmpo_jax.runtime import distributed, preemption
from wmpo_jax.runtime.errors import HostLost, Preempted, UserError
from wmpo_jax.runtime.mesh import fetch, make_mesh
from wmpo_jax.runtime.workdir import Workdir
from wmpo_jax.stages import training
from wmpo_jax.stages.setting import Setting
import optax

folder, steps, slow, seed = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "slow", int(sys.argv[4])
config = ConfigDict({"seed": seed, "tensorboard": False})
config.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": 1})

def loss(params, data, key, step):
    rows = jax.random.randint(key, (8,), 0, len(data["x"]))
    batch = training.spread(setting.mesh, {k: v[rows] for k, v in data.items()})
    error = jnp.tanh(batch["x"] @ params["fc1"]["kernel"]) @ params["fc2"]["kernel"] - batch["y"]
    return jnp.square(error).mean(), {}

try:
    distributed.initialize(cluster=False)
    preemption.install()
    distributed.check_same_config(config)
    setting = Setting(config, Workdir(folder, config), make_mesh(config))
    draw = np.random.default_rng(0).normal
    data = {"x": draw(size=(32, 8)).astype(np.float32), "y": draw(size=(32, 4)).astype(np.float32)}
    params = {"fc1": {"kernel": draw(size=(8, 16))}, "fc2": {"kernel": draw(size=(16, 4))}}
    params = jax.tree.map(np.float32, params)
    optimizer = optax.adam(1e-2)
    state = training.initial_state(setting.mesh, params, optimizer)
    step = training.make_step(setting.mesh, loss, optimizer, setting.key("sft"))
    def paced(state, data):
        if slow:
            import time
            time.sleep(0.2)
        return step(state, data)
    with distributed.watching_hosts():
        state = training.fit("sft", state, paced, data, steps, 5, setting)
        final = fetch(state.params)
    if jax.process_index() == 0:
        np.savez(f"{folder}/final_{jax.process_count()}.npz", a=final["fc1"]["kernel"],
                 b=final["fc2"]["kernel"])
except UserError as error:
    print(f"wmpo_jax: {error}", file=sys.stderr)
    sys.exit(2)
except HostLost as loss:
    print(f"wmpo_jax: {loss}", file=sys.stderr, flush=True)
    os._exit(75)
except Preempted as stop:
    print(f"wmpo_jax: {stop}", file=sys.stderr)
    sys.exit(75)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start(
    folder: Path, hosts: int, steps: int, pace: str = "fast", seeds: tuple[int, ...] = (0, 0)
) -> list[subprocess.Popen]:
    port = free_port()
    started = []
    for host in range(hosts):
        where = {
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
            "JAX_NUM_PROCESSES": str(hosts),
            "JAX_PROCESS_ID": str(host),
        }
        # As many devices in all, however many processes.
        flags = f"--xla_force_host_platform_device_count={2 // hosts}"
        command = [sys.executable, "-c", PROGRAM, str(folder), str(steps), pace, str(seeds[host])]
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
        started.append(
            subprocess.Popen(
                command,
                env=environment | (where if hosts > 1 else {}),
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def finish(processes: list[subprocess.Popen]) -> list[tuple[int, str]]:
    """Exit status and stderr of each."""
    ends = [process.communicate(timeout=300)[1] for process in processes]
    return [(process.returncode, end) for process, end in zip(processes, ends, strict=True)]


def wait_for_checkpoint(folder: Path) -> None:
    deadline = time.monotonic() + 200
    checkpoints = folder / "checkpoints" / "sft"
    while not any(path.name.isdigit() for path in checkpoints.glob("*")):
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What one process with two devices ends with after 40 steps."""
    folder = tmp_path_factory.mktemp("alone")
    ((status, errors),) = finish(start(folder, hosts=1, steps=40))
    assert status == 0, errors[-3000:]
    return dict(np.load(folder / "final_1.npz"))


def assert_same(path: Path, expected: dict[str, np.ndarray]) -> None:
    with np.load(path) as found:
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_two_hosts_end_where_one_does(tmp_path: Path, alone: dict[str, np.ndarray]) -> None:
    ends = finish(start(tmp_path, hosts=2, steps=40))
    assert [status for status, _ in ends] == [0, 0], ends
    assert_same(tmp_path / "final_2.npz", alone)


@pytest.mark.slow
def test_a_lost_host_stops_the_other_and_one_process_goes_on(
    tmp_path: Path, alone: dict[str, np.ndarray]
) -> None:
    first, second = start(tmp_path, hosts=2, steps=40, pace="slow")
    wait_for_checkpoint(tmp_path)
    second.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    status, errors = finish([first])[0]
    assert time.monotonic() - killed < 60
    # The collective it is in reports the loss, or JAX's coordination service ends it.
    assert status != 0, errors[-3000:]
    assert "another host was lost" in errors or "Terminating process" in errors, errors[-3000:]
    second.communicate(timeout=60)

    ((status, errors),) = finish(start(tmp_path, hosts=1, steps=40))
    assert status == 0, errors[-3000:]
    assert_same(tmp_path / "final_1.npz", alone)


@pytest.mark.slow
def test_a_notice_to_one_host_stops_both_at_the_same_step(tmp_path: Path) -> None:
    processes = start(tmp_path, hosts=2, steps=200, pace="slow")
    wait_for_checkpoint(tmp_path)
    processes[1].send_signal(signal.SIGTERM)
    ends = finish(processes)
    assert [status for status, _ in ends] == [75, 75], ends
    stops = {errors.partition("stopped at step ")[2].split()[0] for _, errors in ends}
    assert len(stops) == 1
    assert (tmp_path / "checkpoints" / "sft" / stops.pop()).is_dir()


@pytest.mark.slow
def test_hosts_with_different_configs_say_so(tmp_path: Path) -> None:
    ends = finish(start(tmp_path, hosts=2, steps=40, seeds=(0, 1)))
    assert [status for status, _ in ends] == [2, 2], ends
    assert all("Host 1 was started with another config than host 0" in e for _, e in ends)


def test_nobody_at_the_coordinator(tmp_path: Path) -> None:
    environment = {
        "JAX_PLATFORMS": "cpu",
        "JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "1",
        "WMPO_JOIN_SECONDS": "3",
    }
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), "1", "fast", "0"]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr[-3000:]
    assert "did not bring all hosts together within 3 s" in done.stderr
