"""Ctrl-C in commands that do not continue where they stopped: one sentence, exit status 130.

`main` has its own way once it runs (`runtime.preemption`). Imported before anything heavy, as
imports are what an early Ctrl-C hits.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType

STATUS = 128 + signal.SIGINT  # what shells report of a process that Ctrl-C ended
_received = False
_needed = 1  # interrupts that end the process without further ado


def exit_at_once() -> None:
    """Until `raise_from_now_on`: modules that are half imported have nothing to clean up."""
    signal.signal(signal.SIGINT, _exit)
    # Python's handlers wait for the main thread, which may be in XLA for minutes; bytes do not.
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    writer.detach()  # it stays open for the signals
    threading.Thread(target=_count, args=(reader,), daemon=True).start()


def raise_from_now_on() -> None:
    """The first Ctrl-C raises KeyboardInterrupt: what is half written is removed."""
    global _needed
    if signal.getsignal(signal.SIGINT) is _exit:
        _needed = 2
        signal.signal(signal.SIGINT, _interrupt)


def run(main: Callable[[Sequence[str]], int]) -> int:
    """`main` of the command line's arguments; the exit status."""
    try:
        return main(sys.argv[1:])
    except BaseException:
        # Libraries make errors of their own of a KeyboardInterrupt that passes through them.
        if not _received:
            raise
        print("wmpo_jax: stopped by Ctrl-C", file=sys.stderr)
        return STATUS


def _exit(signum: int, frame: FrameType | None) -> None:
    os._exit(STATUS)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    global _received
    _received = True
    raise KeyboardInterrupt


def _count(reader: socket.socket) -> None:
    interrupts = 0
    while received := reader.recv(64):
        interrupts += received.count(signal.SIGINT)
        if interrupts >= _needed:
            os._exit(STATUS)
