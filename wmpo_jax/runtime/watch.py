"""Noticing that another host is gone, wherever this one happens to be waiting for it.

A collective whose peer is gone fails at once on some networks and waits for ever on others. So
every host says every few seconds that it is alive, through the coordinator that JAX runs on host 0,
and listens to the others in a thread of its own.
"""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import jax
from jax._src import distributed  # JAX shows its coordinator's store nowhere else

from wmpo_jax.runtime.errors import HostLost

BEAT_SECONDS = 5
SILENCE_SECONDS = 30  # after which a host is taken for dead
STATUS = 75  # of `main` after Preempted: launchers start the command again
_BEATS = "wmpo_jax/beats/"
# How XLA's collectives and JAX's coordinator say that a peer is gone.
_LOST = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "Gloo", "gloo", "Connection", "coordination", "peer")
_kept: list[object] = []  # C has only the address of a handler


@contextlib.contextmanager
def collectives() -> Iterator[None]:
    """Turns the error by which a collective reports a lost host into HostLost."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or not any(word in str(error) for word in _LOST):
            raise
        reason = f"a collective failed: {str(error).splitlines()[0][:160]}"
        raise HostLost(_sentence(reason)) from error


def start() -> None:
    """Ends this process with STATUS and one sentence when another host is silent or gone."""
    threading.Thread(target=_listen, name="watch", daemon=True).start()
    address = distributed.global_state.coordinator_address or ""

    def without_coordinator() -> None:
        if not _answers(address):
            leave(_sentence(f"the coordinator {address} does not answer"), STATUS)

    before_abort(without_coordinator)


def _listen() -> None:
    client, me = distributed.global_state.client, jax.process_index()
    assert client is not None  # made by jax.distributed.initialize
    heard: dict[int, tuple[str, float]] = {}
    for beat in range(sys.maxsize):
        try:
            client.key_value_set(f"{_BEATS}{me}", str(beat), allow_overwrite=True)
            beats = client.key_value_dir_get(_BEATS)
        except jax.errors.JaxRuntimeError:  # this process is ending, or its coordinator is gone
            return
        now = time.monotonic()
        for key, value in beats:
            host = int(key.rpartition("/")[2])
            if host not in heard or heard[host][0] != value:
                heard[host] = (value, now)
            elif now - heard[host][1] > SILENCE_SECONDS:
                leave(_sentence(f"host {host} has been silent for {SILENCE_SECONDS} s"), STATUS)
        time.sleep(BEAT_SECONDS)


def before_abort(action: Callable[[], None]) -> None:
    """Calls `action` before JAX's C++ code aborts this process, which it does if that returns.

    So it ends when its coordinator does not answer: at the start, or on all other hosts when host 0
    is gone. Python's own handlers do not run any more then, hence ctypes.
    """
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda signum: action())
    _kept.append(handler)
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)


def leave(sentence: str, status: int) -> NoReturn:
    """Ends this process at once; an orderly exit would wait for hosts that are not there."""
    print(f"wmpo_jax: {sentence}", file=sys.stderr, flush=True)
    os._exit(status)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=3).close()
    except OSError:
        return False
    return True


def _sentence(reason: str) -> str:
    return (
        f"another host was lost ({reason}); the same command on all hosts continues from the "
        "newest checkpoint"
    )
