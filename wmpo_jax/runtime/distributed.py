"""Several hosts as one computer: joining each other and agreeing on the config."""

import os
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict, FrozenConfigDict

from wmpo_jax.runtime import watch
from wmpo_jax.runtime.config import config_hash
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import load_arrays, replacing

_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
JOIN_SECONDS = 120  # hosts of a job start within this of each other; WMPO_JOIN_SECONDS overrides
# JAX's own patience with a silent host, longer than that of `watch`, which says it better.
_HEARTBEAT_SECONDS = 50
_SHUTDOWN_SECONDS = 300  # the last host may be writing the report


def initialize(cluster: bool) -> None:
    """Joins the other hosts; call it before anything asks JAX for devices.

    Args:
      cluster: the hosts find each other, as on TPU pods and under Slurm. Otherwise they do when
        JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID are set, and
        this is a single host when none of them is.

    Raises:
      UserError: some of the three variables are set and others are not, they make no sense, this
        is no cluster that JAX knows, or the coordinator does not answer within JOIN_SECONDS.
    """
    values = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    if cluster:
        _join()
    elif len(values) == len(_VARIABLES):
        _join(**_given(*(values[name] for name in _VARIABLES)))
    elif values:
        missing = [name for name in _VARIABLES if name not in values]
        raise UserError(f"{' and '.join(values)} is set but {' and '.join(missing)} is not.")


def _given(address: str, processes: str, index: str) -> dict[str, str | int]:
    """The three variables as arguments of `jax.distributed.initialize`."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port[:6]) not in range(1, 65_536):
        raise UserError(
            f"The variable JAX_COORDINATOR_ADDRESS is {address!r}: set it to host:port of process "
            "0, such as 10.0.0.1:1234."
        )
    count = _whole("JAX_NUM_PROCESSES", processes)
    own = _whole("JAX_PROCESS_ID", index)
    if own >= count:
        raise UserError(
            f"JAX_PROCESS_ID is {own} and JAX_NUM_PROCESSES {count}: number the processes from 0 "
            "to one less than their count."
        )
    return {"coordinator_address": address, "num_processes": count, "process_id": own}


def _whole(name: str, value: str) -> int:
    if not value.isdecimal() or len(value) > 9:
        raise UserError(f"The variable {name} is {value[:20]!r}: set it to a whole number.")
    return int(value)


def _join(**where: str | int) -> None:
    seconds = _whole("WMPO_JOIN_SECONDS", os.environ.get("WMPO_JOIN_SECONDS", str(JOIN_SECONDS)))
    failure = (
        f"The coordinator {where.get('coordinator_address', 'of this cluster')} did not bring all "
        f"hosts together within {seconds} s: start the same command on every host, and check the "
        "address, the firewall and the number of processes."
    )
    watch.before_abort(lambda: watch.leave(failure, 2))  # JAX ends some of these in C++
    try:
        jax.distributed.initialize(
            **where,  # pyright: ignore[reportArgumentType]
            initialization_timeout=seconds,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
    except (
        ValueError,
        LookupError,
    ) as error:  # before any host is asked: JAX does not know where it is
        raise UserError(
            f"--cluster finds no TPU pod, Slurm job or other cluster here ({_first(error)}): leave "
            f"it out on a single host, or set {', '.join(_VARIABLES)}."
        ) from error
    except RuntimeError as error:
        raise UserError(f"{failure} JAX says: {_first(error)}") from error
    watch.start()


def _first(error: Exception) -> str:
    """The first line of its message."""
    return str(error).partition("\n")[0][:120].rstrip(".")


def exchange(folder: Path, part: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """What every host has to give, in the order of the hosts; all must call it.

    It goes through files, since hours of video would not fit on the devices.

    Args:
      folder: on a disk that all hosts see; nothing stays there.
      part: this host's arrays.
    """
    if jax.process_count() == 1:
        return [dict(part)]
    paths = [folder / f".part_{host}.npz" for host in range(jax.process_count())]
    mine = paths[jax.process_index()]
    with replacing(mine) as file:
        np.savez(file, allow_pickle=False, **part)
    multihost_utils.sync_global_devices("parts are written")
    parts = [load_arrays(path, "that was just running") for path in paths]
    multihost_utils.sync_global_devices("parts are read")
    mine.unlink()
    return parts


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
