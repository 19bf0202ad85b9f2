"""Stopping politely: SIGTERM and Ctrl-C set a flag that loops look at after each step."""

import signal
from types import FrameType

import jax
import numpy as np
from jax.experimental import multihost_utils

from wmpo_jax.runtime.errors import Preempted

_requested = False


def install() -> None:
    """Catches SIGTERM and the first SIGINT; a second SIGINT interrupts at once."""
    global _requested
    _requested = False
    signal.signal(signal.SIGTERM, _request)
    signal.signal(signal.SIGINT, _request)


def _request(signum: int, frame: FrameType | None) -> None:
    global _requested
    _requested = True
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # also in the middle of an XLA call


def stop_requested(step: int) -> bool:
    """Whether to save and raise Preempted now.

    With several hosts it is true on all of them as soon as one was asked; they must all call it
    at the same step, since it is a collective there.
    """
    del step
    if jax.process_count() == 1:
        return _requested
    return bool(np.any(multihost_utils.process_allgather(np.asarray(_requested))))


def stopped(stage: str, step: int) -> Preempted:
    """What a loop raises after it has saved: `raise stopped("sft", 300)`."""
    return Preempted(f"stopped at step {step} of stage {stage}; the same command continues")
