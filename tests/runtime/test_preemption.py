"""SIGTERM and Ctrl-C ask for a polite stop; a second Ctrl-C does not wait for it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from wmpo_jax.runtime import preemption
from wmpo_jax.runtime.errors import Preempted

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    preemption.install()
    yield
    preemption.install()  # clears the flag for the tests that follow
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_sets_the_flag(number: signal.Signals) -> None:
    assert not preemption.stop_requested()
    os.kill(os.getpid(), number)
    assert preemption.stop_requested()


BUSY = """
import hashlib
from wmpo_jax.runtime import preemption
preemption.install()
print("ready", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes in C without the GIL, like an XLA program
"""


def test_a_second_interrupt_ends_a_busy_process() -> None:
    """Also right after the first, when the main thread has not even seen that one."""
    busy = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE)
    assert busy.stdout is not None
    busy.stdout.readline()
    for _ in range(2):
        time.sleep(1.0)  # two signals at once would be one to the kernel
        busy.send_signal(signal.SIGINT)
    try:
        assert busy.wait(timeout=60) == 130
    finally:
        busy.kill()


def test_what_the_user_reads() -> None:
    message = "stopped at step 300 of stage sft; the same command continues"
    with pytest.raises(Preempted, match=message):
        raise preemption.stopped("sft", 300)
