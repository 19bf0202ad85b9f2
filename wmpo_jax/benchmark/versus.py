"""Our programs and PyTorch's run in turns; the rows of the table that compares them."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from wmpo_jax.benchmark import pairs, peers
from wmpo_jax.benchmark.measure import Bench
from wmpo_jax.benchmark.presets import PRECISIONS
from wmpo_jax.benchmark.timing import Spread, alternated
from wmpo_jax.runtime.errors import UserError

OURS = "wmpo_jax"


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
    """Eager PyTorch first: compiling it may take longer than there is time."""
    runs: dict[str, Callable[[], Any]] = {}
    results, first = {}, {}
    makers = {
        f"{OURS}, {precision}": functools.partial(pair.ours, precision)
        for precision in bench.precisions
    }
    error = None
    for compiling in (False, True)[: 1 + compiled]:
        ours = [name for name in runs if name.startswith(OURS)]
        hows = [peers.How(precision, compiling) for precision in bench.precisions]
        makers |= {how.name: functools.partial(pair.theirs, how) for how in hows}
        for name, make in makers.items():
            started = time.perf_counter()
            runs[name] = make()
            results[name] = jax.block_until_ready(runs[name]())
            first[name] = time.perf_counter() - started
        if not compiling:
            error = _error(pair, results)
        in_turns = {name: runs[name] for name in (*ours, *makers)}
        found = alternated(in_turns, bench.repeats, bench.clock)
        for name in makers:
            yield _row(pair, name, found, first[name], error)
        makers = {}


def _row(
    pair: pairs.Pair, name: str, found: dict[str, Spread], first: float, error: float | None
) -> dict[str, Any]:
    """Ratios: how often ours runs while theirs runs once; None for ours."""
    seconds, theirs = found[name], not name.startswith(OURS)
    precision = next(p for p in PRECISIONS if p in name)
    best = min(spread.median for by, spread in found.items() if by.startswith(OURS))
    same = found[f"{OURS}, {precision}"].median
    return {
        "program": pair.name,
        "by": name,
        "seconds": seconds._asdict(),
        "first_run": first,
        "ratio": seconds.median / same if theirs else None,
        "ratio_to_best": seconds.median / best if theirs else None,
        "error": error,
    }


def _error(pair: pairs.Pair, results: dict[str, Any]) -> float | None:
    """How far both sides are apart in float32; on a GPU its own runs, without TensorFloat-32."""
    ours, theirs = f"{OURS}, float32", peers.How("float32", compiled=False).name
    if pair.compared and jax.devices()[0].platform == "cpu" and {ours, theirs} <= results.keys():
        return pairs.difference(results[ours], results[theirs])
    return pair.error()
