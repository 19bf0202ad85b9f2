"""How seconds and memory grow with batch, horizon and sampling steps, and the fitted exponents."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from wmpo_jax.assembly.agents import grpo_config
from wmpo_jax.benchmark import cases
from wmpo_jax.benchmark.measure import Bench, Prepared
from wmpo_jax.benchmark.timing import timed

FACTORS = (1, 2, 4)


def rows(bench: Bench) -> Iterator[dict[str, Any]]:
    """A row per axis with the exponents of seconds and of temporary memory, and its points."""
    config, mesh = bench.config, bench.mesh

    def wider(factor: int) -> cases.Case:
        return cases.sampler_case(_changed(config, "improve.groups", factor), mesh)

    def finer(factor: int) -> cases.Case:
        changed = _changed(config, "world_model.sampling_steps", factor)
        return cases.sampler_case(changed, mesh)

    def longer(factor: int) -> cases.Case:
        return cases.rollout_case(config, mesh, factor)

    first = {
        "batch": grpo_config(config).episodes,
        "sampling steps": config.world_model.sampling_steps,
        "horizon, chunks": 1,
    }
    axes: dict[str, Callable[[int], cases.Case]] = {
        "batch": wider,
        "sampling steps": finer,
        "horizon, chunks": longer,
    }
    for axis, make in axes.items():
        points = [_point(make(factor), first[axis] * factor, bench) for factor in FACTORS]
        sizes, seconds, memory = (
            [point[name] for point in points] for name in ("size", "seconds", "temporaries")
        )
        yield {
            "axis": axis,
            "name": make(1).name,
            "exponent": exponent(sizes, seconds),
            "memory_exponent": exponent(sizes, memory),
            "points": points,
        }


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """k of the least-squares fit value = c * size^k, in logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-12)), 1)[0])


def _changed(config: ConfigDict, field: str, factor: int) -> ConfigDict:
    """A copy with one field multiplied."""
    section, name = field.split(".")
    changed = config.copy_and_resolve_references()
    changed[section][name] *= factor
    if field == "improve.groups":
        changed.improve.minibatch *= factor
    return changed


def _point(case: cases.Case, size: int, bench: Bench) -> dict[str, Any]:
    run = Prepared(case)
    memory = run.compiled.memory_analysis()
    return {
        "size": size,
        "seconds": timed(run, bench.repeats, bench.clock).median,
        "temporaries": memory.temp_size_in_bytes,
        "output": memory.output_size_in_bytes,
    }
