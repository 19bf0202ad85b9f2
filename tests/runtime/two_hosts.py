"""Programs on this machine as if it were several hosts, with two devices in all."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

ROOT = Path(__file__).parents[2]
# Compiling well would take longer than these few steps.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def start(
    module: str, hosts: int, *flags: str, environments: tuple[dict[str, str], ...] = ({}, {})
) -> list[subprocess.Popen]:
    """`python -m module` with the smoke config and the same flags on every host.

    Args:
      environments: what each host finds in its environment besides.
    """
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", module, "--config=configs/tiny.py:smoke", *flags]
    command += ["--config.tensorboard=False", f"--config.cpu_devices={2 // hosts}"]
    started = []
    for host in range(hosts):
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK}
        if hosts > 1:
            environment |= {
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(hosts),
                "JAX_PROCESS_ID": str(host),
            }
        environment |= environments[host]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stderr=pipe, text=True))
    return started


def finish(processes: list[subprocess.Popen], seconds: float = 300) -> list[tuple[int, str]]:
    """Exit status and stderr of each; they are killed when they take longer than `seconds`."""
    try:
        errors = [process.communicate(timeout=seconds)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, errors, strict=True)]


def wait_for(condition: Callable[[], bool], seconds: float = 200) -> None:
    """Until `condition()` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def end_of_the_other(lost: subprocess.Popen, other: subprocess.Popen, how: int) -> str:
    """Sends `lost` the signal `how`; stderr of `other`, which has to leave within a minute."""
    lost.send_signal(how)
    try:
        ((status, errors),) = finish([other], seconds=60)
    finally:
        lost.send_signal(signal.SIGKILL)
        lost.communicate(timeout=60)
    assert status == 75, errors[-3000:]
    return errors


def newest_step(workdir: Path, stage: str) -> int:
    """Number of the newest complete checkpoint; -1 without one."""
    folder = workdir / "checkpoints" / stage
    return max((int(path.name) for path in folder.glob("*") if path.name.isdigit()), default=-1)


def parameters(workdir: Path, stage: str) -> dict[str, np.ndarray]:
    """Those in the newest checkpoint of a stage, by path."""
    folder = workdir / "checkpoints" / stage / str(newest_step(workdir, stage)) / "params"
    with ocp.StandardCheckpointer() as checkpointer:
        shapes = checkpointer.metadata(folder.resolve()).item_metadata.tree
        # On this host, wherever the arrays lay before.
        template = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        leaves = traverse_util.flatten_dict(checkpointer.restore(folder.resolve(), template))
    return {"/".join(k): np.asarray(v) for k, v in leaves.items()}


def difference(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Of whole trees: |found - expected| / |expected|."""
    assert found.keys() == expected.keys()
    gap = sum(float(np.square(found[name] - expected[name]).sum()) for name in expected)
    return (gap / sum(float(np.square(value).sum()) for value in expected.values())) ** 0.5
