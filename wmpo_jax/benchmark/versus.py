"""Our programs and PyTorch's run in turns; the rows of the table that compares them."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from wmpo_jax.benchmark import pairs, peers
from wmpo_jax.benchmark.measure import Bench
from wmpo_jax.benchmark.presets import PRECISIONS
from wmpo_jax.benchmark.timing import Spread, alternated
from wmpo_jax.runtime.errors import UserError


def rows(bench: Bench, compiled: bool) -> Iterator[dict[str, Any]]:
    """For each program a row per contender: seconds, and how much faster ours is.

    Args:
      compiled: with `torch.compile` beside eager PyTorch.

    Raises:
      UserError: no such program.
    """
    unknown = [name for name in bench.programs if name not in pairs.NAMES]
    if unknown:
        raise UserError(f"There is no {unknown[0]!r}; choose from {', '.join(pairs.NAMES)}.")
    peers.use_all_cores()
    made = pairs.Pairs(bench.config, bench.mesh)
    for name in bench.programs or pairs.NAMES:
        yield from _compared(made.named(name), bench, compiled)


def _compared(pair: pairs.Pair, bench: Bench, compiled: bool) -> Iterator[dict[str, Any]]:
    makers: dict[str, Callable[[], Callable[[], Any]]] = {
        f"wmpo_jax, {precision}": lambda precision=precision: pair.ours(precision)
        for precision in bench.precisions
    }
    for precision, compiling in itertools.product(bench.precisions, (False, True)[: 1 + compiled]):
        how = peers.How(precision, compiling)
        makers[how.name] = lambda how=how: pair.theirs(how)
    runs, first, results = {}, {}, {}
    for name, make in makers.items():
        started = time.perf_counter()
        runs[name] = make()
        results[name] = jax.block_until_ready(runs[name]())
        first[name] = time.perf_counter() - started
    error = _error(pair, results)
    found = alternated(runs, bench.repeats, bench.clock)
    best = min(s.median for name, s in found.items() if name.startswith("wmpo_jax"))
    for name, seconds in found.items():
        yield {
            "program": pair.name,
            "by": name,
            "seconds": seconds._asdict(),
            "first_run": first[name],
            "ratio": _ratio(name, seconds, found),
            "ratio_to_best": None if name.startswith("wmpo_jax") else seconds.median / best,
            "error": error,
        }


def _error(pair: pairs.Pair, results: dict[str, Any]) -> float | None:
    """How far both sides are apart in float32; on a GPU its own runs, without TensorFloat-32."""
    ours, theirs = "wmpo_jax, float32", peers.How("float32", compiled=False).name
    if pair.compared and jax.devices()[0].platform == "cpu" and {ours, theirs} <= results.keys():
        return pairs.difference(results[ours], results[theirs])
    return pair.error()


def _ratio(name: str, seconds: Spread, found: dict[str, Spread]) -> float | None:
    """How often ours runs, in the same precision, while theirs runs once; None for ours."""
    if name.startswith("wmpo_jax"):
        return None
    precision = next(p for p in PRECISIONS if p in name)
    return seconds.median / found[f"wmpo_jax, {precision}"].median
