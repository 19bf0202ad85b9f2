"""SIGTERM and Ctrl-C ask for a polite stop; a second Ctrl-C does not wait for it."""

import os
import signal
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
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_sets_the_flag(number: signal.Signals) -> None:
    assert not preemption.stop_requested()
    os.kill(os.getpid(), number)
    assert preemption.stop_requested()


def test_the_second_interrupt_is_the_kernels() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL


def test_what_the_user_reads() -> None:
    message = "stopped at step 300 of stage sft; the same command continues"
    with pytest.raises(Preempted, match=message):
        raise preemption.stopped("sft", 300)
