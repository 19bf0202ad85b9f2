"""Several hosts as one computer: joining, agreeing on the config, and noticing that one is gone."""

import contextlib
import os
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict, FrozenConfigDict

from wmpo_jax.runtime.config import config_hash
from wmpo_jax.runtime.errors import HostLost, UserError

_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
JOIN_SECONDS = 120  # hosts of a job start within this of each other; WMPO_JOIN_SECONDS overrides
# A host that is silent for so long is taken for dead, and JAX ends the processes of the others.
SILENCE_SECONDS = 30
# How XLA's collectives and JAX's coordination service say that a peer is gone.
_LOST = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "Gloo", "gloo", "Connection", "coordination", "peer")


def initialize(cluster: bool) -> None:
    """Joins the other hosts; call it before anything asks JAX for devices.

    Args:
      cluster: the hosts find each other, as on TPU pods and under Slurm. Otherwise they do when
        JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID are set, and
        this is a single host when none of them is.

    Raises:
      UserError: some of the three variables are set and others are not, or the coordinator does
        not answer within JOIN_SECONDS.
    """
    values = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    if cluster:
        _join()
    elif len(values) == len(_VARIABLES):
        address, processes, index = (values[name] for name in _VARIABLES)
        _join(coordinator_address=address, num_processes=int(processes), process_id=int(index))
    elif values:
        missing = [name for name in _VARIABLES if name not in values]
        raise UserError(f"{' and '.join(values)} is set but {' and '.join(missing)} is not.")


def _join(**where: str | int) -> None:
    seconds = int(os.environ.get("WMPO_JOIN_SECONDS", JOIN_SECONDS))
    try:
        jax.distributed.initialize(
            **where,  # pyright: ignore[reportArgumentType]
            initialization_timeout=seconds,
            heartbeat_timeout_seconds=SILENCE_SECONDS,
            shutdown_timeout_seconds=SILENCE_SECONDS,
        )
    except RuntimeError as error:
        place = where.get("coordinator_address", "of this cluster")
        raise UserError(
            f"The coordinator {place} did not bring all hosts together within {seconds} s "
            f"({str(error).splitlines()[0][:120]}): start the same command on every host, and "
            "check the address, the firewall and the number of processes."
        ) from error


def check_same_config(config: ConfigDict | FrozenConfigDict) -> None:
    """Ends every host with one sentence when they were started with different configs."""
    if jax.process_count() == 1:
        return
    mine = np.frombuffer(bytes.fromhex(config_hash(config)), np.uint8)
    hashes = multihost_utils.process_allgather(mine)
    strangers = [host for host, theirs in enumerate(hashes) if (theirs != hashes[0]).any()]
    if strangers:
        raise UserError(
            f"Host {strangers[0]} was started with another config than host 0 (their hashes "
            "differ): give every host the same file and the same --config flags."
        )


@contextlib.contextmanager
def watching_hosts() -> Iterator[None]:
    """Turns the errors by which a collective reports a lost host into HostLost.

    A host that is not waiting in a collective is ended by JAX itself after SILENCE_SECONDS.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or not any(word in str(error) for word in _LOST):
            raise
        raise HostLost(
            f"another host was lost ({str(error).splitlines()[0][:160]}); the same command on all "
            "hosts continues from the newest checkpoint"
        ) from error
