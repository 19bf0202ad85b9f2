"""What a long job is doing: a bar with time left, and seconds per phase."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Self

import jax
from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0  # in a log file a redrawn bar is noise


class Progress:
    """See `progress`."""

    def __init__(self, total: int, initial: int, phase: str) -> None:
        self._tty = sys.stderr.isatty()
        self._phase, self._total, self._initial = phase, total, initial
        self._done, self._headline = initial, ""
        self._started = self._last_line = time.monotonic()
        self._bar = tqdm(
            total=total,
            initial=initial,
            desc=phase,
            disable=not self._tty or jax.process_index() != 0,
            dynamic_ncols=True,
        )

    def headline(self, **metric: float) -> None:
        """Shows one metric worth watching: `headline(loss=0.312)`."""
        self._headline = ", ".join(f"{name} {value:.4g}" for name, value in metric.items())
        self._bar.set_postfix_str(self._headline, refresh=False)

    def advance(self, n: int = 1) -> None:
        """Counts `n` units of work; what the last batch has beyond the total does not count."""
        n = min(n, self._total - self._done)
        self._done += n
        self._bar.update(n)
        if time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._print_line()

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        if self._tty or jax.process_index() != 0:
            return
        line = tqdm.format_meter(
            self._done,
            self._total,
            self._last_line - self._started,
            prefix=self._phase,
            initial=self._initial,
            postfix=self._headline,
            bar_format="{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]",
        )
        print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._print_line()
        self._bar.close()


def progress(total: int, initial: int, phase: str) -> Progress:
    """A bar on a terminal, a line every ten seconds elsewhere; silent on processes other than 0.

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
