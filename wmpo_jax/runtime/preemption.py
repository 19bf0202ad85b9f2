"""Stopping on request: SIGTERM and Ctrl-C set a flag that loops look at after each step."""

import os
import signal
import socket
import threading
from types import FrameType

import jax
from orbax.checkpoint import multihost

from wmpo_jax.runtime.errors import Preempted

_requested = False
_calls = 0  # of `stop_requested`, alike on all hosts


def install() -> None:
    """Catches SIGTERM and the first SIGINT; a second SIGINT ends this process at once.

    Call it in the main thread, after the hosts have joined. With several hosts SIGTERM is left to
    JAX's preemption service, which then tells all of them, and a first SIGINT is passed on as one.
    """
    global _requested
    _requested = False
    if jax.process_count() == 1:
        signal.signal(signal.SIGTERM, _request)
    signal.signal(signal.SIGINT, _request)
    # Python's handlers wait for the main thread, which may be in XLA for minutes; bytes do not.
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    writer.detach()  # it stays open for the signals
    threading.Thread(target=_count_interrupts, args=(reader,), daemon=True).start()


def _request(signum: int, frame: FrameType | None) -> None:
    global _requested
    _requested = True
    if signum == signal.SIGINT and jax.process_count() > 1:
        os.kill(os.getpid(), signal.SIGTERM)


def _count_interrupts(reader: socket.socket) -> None:
    interrupts = 0
    while received := reader.recv(64):
        interrupts += received.count(signal.SIGINT)
        if interrupts >= 2:
            os._exit(128 + signal.SIGINT)  # what a shell reports of a process that Ctrl-C ended


def stop_requested() -> bool:
    """Whether to save and raise Preempted now.

    With several hosts the one that is asked to stop tells the others in the background, within a
    second or two, and all of them get True at the same call. So they must all call it equally
    often; a call takes 30 us, as nobody waits for anybody.
    """
    global _calls
    _calls += 1  # not the step, which starts again in each stage
    if jax.process_count() == 1:
        return _requested
    return multihost.reached_preemption(_calls)


def stopped(stage: str, step: int) -> Preempted:
    """What a loop raises after it has saved: `raise stopped("sft", 300)`."""
    return Preempted(f"stopped at step {step} of stage {stage}; the same command continues")
