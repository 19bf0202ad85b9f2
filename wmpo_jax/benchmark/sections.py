"""The sections of a benchmark; each returns JSON-able rows, printed as they come."""

from collections.abc import Callable, Iterable
from typing import Any

import jax

from wmpo_jax.benchmark import cases, growth, real, shares, timing
from wmpo_jax.benchmark.measure import Bench, Prepared, measure

SAMPLING_STEPS = (30, 4, 1)


def imagination(bench: Bench) -> Iterable[dict[str, Any]]:
    """Parts of an imagined chunk, the whole rollout, an update."""
    return _measured(bench, cases.imagination(bench.config, bench.mesh))


def training(bench: Bench) -> Iterable[dict[str, Any]]:
    """A step of each supervised training."""
    return _measured(bench, cases.training(bench.config, bench.mesh))


def reality(bench: Bench) -> Iterable[dict[str, Any]]:
    """MJX, where it simulates the config's task; and LIBERO's scene, where one was given."""
    yield from real.tabletop(bench)
    if bench.scene is not None:
        yield from real.libero(bench, bench.scene)


def step(bench: Bench) -> Iterable[dict[str, Any]]:
    """Parts of one training step of the world model."""
    run = Prepared(cases.world_model_case(bench.config, bench.mesh))
    seconds = timing.timed(run, bench.repeats, bench.clock)
    for share in shares.shares(run.compiled, run):
        wall = share.share * seconds.median
        yield {"part": share.part, "share": share.share, "seconds": wall}
    yield {"part": "whole step", "share": 1.0, "seconds": seconds.median}


def steps(bench: Bench) -> Iterable[dict[str, Any]]:
    """The sampler at the released number of sampling steps and at few."""
    for count in SAMPLING_STEPS:
        config = bench.config.copy_and_resolve_references()
        config.world_model.sampling_steps = count
        yield measure(cases.sampler_case(config, bench.mesh), bench).row()


def _measured(bench: Bench, found: Iterable[cases.Case]) -> Iterable[dict[str, Any]]:
    for case in found:
        if bench.programs and case.name not in bench.programs:
            continue
        yield measure(case, bench).row()
        jax.clear_caches()  # a program's executable is not needed again


SECTIONS: dict[str, Callable[[Bench], Iterable[dict[str, Any]]]] = {
    "reality": reality,
    "imagination": imagination,
    "training": training,
    "steps": steps,
    "growth": growth.rows,
    "step": step,
}
