"""The sections of a benchmark; each returns JSON-able rows, printed as they come."""

from collections.abc import Callable, Iterable
from typing import Any

import jax

from wmpo_jax.benchmark import cases, growth, real, shares, timing
from wmpo_jax.benchmark.measure import Bench, Prepared, measure


def imagination(bench: Bench) -> Iterable[dict[str, Any]]:
    """Parts of an imagined chunk, the whole rollout, an update."""
    return _measured(bench, cases.imagination(bench.config, bench.mesh))


def training(bench: Bench) -> Iterable[dict[str, Any]]:
    """A step of each supervised training."""
    return _measured(bench, cases.training(bench.config, bench.mesh))


def reality(bench: Bench) -> Iterable[dict[str, Any]]:
    """MJX, where the config's task is simulated with it."""
    return real.rates(bench)


def step(bench: Bench) -> Iterable[dict[str, Any]]:
    """Parts of one training step of the world model."""
    run = Prepared(cases.world_model_case(bench.config, bench.mesh))
    seconds = timing.timed(run, bench.repeats, bench.clock)
    for share in shares.shares(run.compiled, run):
        wall = share.share * seconds.median
        yield {"part": share.part, "share": share.share, "seconds": wall}
    yield {"part": "whole step", "share": 1.0, "seconds": seconds.median}


def _measured(bench: Bench, found: Iterable[cases.Case]) -> Iterable[dict[str, Any]]:
    for case in found:
        result = measure(case, bench)
        yield result.row()
        jax.clear_caches()  # a program's arrays and executable are not needed again


SECTIONS: dict[str, Callable[[Bench], Iterable[dict[str, Any]]]] = {
    "reality": reality,
    "imagination": imagination,
    "training": training,
    "growth": growth.rows,
    "step": step,
}
