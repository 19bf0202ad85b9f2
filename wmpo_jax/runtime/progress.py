"""What a long job is doing: a bar with time left, and seconds per phase."""

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from typing import Self

import jax
from tqdm_loggable.auto import tqdm


class _Lines(logging.Handler):
    """Messages as they are, on whatever stderr is when they come."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr, flush=True)


# Without a terminal the bar becomes messages to this logger.
_LOGGER = logging.getLogger("tqdm_loggable")
_LOGGER.setLevel(logging.INFO)
_LOGGER.propagate = False
_LOGGER.handlers = [_Lines()]


class Progress:
    """See `progress`."""

    def __init__(self, total: int, initial: int, phase: str) -> None:
        other = jax.process_index() != 0
        self._bar = tqdm(
            total=total, initial=initial, desc=phase, disable=other, dynamic_ncols=True
        )
        self._left = total - initial

    def headline(self, **metric: float) -> None:
        """Shows one metric worth watching: `headline(loss=0.312)`."""
        text = ", ".join(f"{name} {value:.4g}" for name, value in metric.items())
        self._bar.set_postfix_str(text, refresh=False)

    def advance(self, n: int = 1) -> None:
        """Counts `n` units of work; what the last batch has beyond the total does not count."""
        n = min(n, self._left)
        self._left -= n
        self._bar.update(n)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def progress(total: int, initial: int, phase: str) -> Progress:
    """A bar on a terminal, a line every ten seconds elsewhere; nothing on processes other than 0.

        with progress(900, 300, "sft") as bar:
            bar.headline(loss=0.3)
            bar.advance()

    Args:
      total: units of work in all.
      initial: units done before this process started (restored from a checkpoint).
      phase: what is being done, shown in front.
    """
    return Progress(total, initial, phase)


def say(text: str) -> None:
    """A line on stdout, once, however many hosts there are."""
    if jax.process_index() == 0:
        print(text, flush=True)


def warn(text: str) -> None:
    """`wmpo_jax: <text>` on stderr, once, however many hosts there are."""
    if jax.process_index() == 0:
        print(f"wmpo_jax: {text}", file=sys.stderr, flush=True)


class PhaseTimer:
    """Adds up wall seconds per phase name (policy, world_model, decode, reward, update ...).

    JAX returns before the work is done: block on a phase's result inside its `with`, or the next
    phase is charged for it.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            self.seconds[phase] = self.seconds.get(phase, 0.0) + spent

    def take(self) -> dict[str, float]:
        """`{"seconds_policy": 1.2, ...}` since the last call, ready for a MetricWriter."""
        taken = {f"seconds_{phase}": spent for phase, spent in self.seconds.items()}
        self.seconds = {}
        return taken
