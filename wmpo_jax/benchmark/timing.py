"""Seconds of runs and their spread; what the machine can do at most."""

import functools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wmpo_jax.runtime.mesh import batch_sharding, on_cpu


class Spread(NamedTuple):
    """Seconds of several runs."""

    median: float
    low: float
    high: float
    runs: int


def spread(seconds: list[float]) -> Spread:
    """Of at least one run."""
    return Spread(statistics.median(seconds), min(seconds), max(seconds), len(seconds))


# "cpu" counts what the threads of this process worked, waiting in a loop included. On a machine
# that others use, with this process held to one core, it says more than the wall's clock.
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def seconds_of(run: Callable[[], Any], clock: str = "wall") -> float:
    """Seconds of one run. `run` returns when its result is there, or returns JAX arrays."""
    now = CLOCKS[clock]
    started = now()
    jax.block_until_ready(run())
    return now() - started


def timed(run: Callable[[], Any], repeats: int, clock: str = "wall") -> Spread:
    """After one run that is not counted."""
    seconds_of(run)
    return spread([seconds_of(run, clock) for _ in range(repeats)])


def alternated(
    runs: Mapping[str, Callable[[], Any]], repeats: int, clock: str = "wall"
) -> dict[str, Spread]:
    """Each of `runs` once, then again, so that a busy machine is busy for all of them.

    All of them ran before, so that nothing is compiled here.
    """
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            found[name].append(seconds_of(run, clock))
    return {name: spread(seconds) for name, seconds in found.items()}


class Ceilings(NamedTuple):
    """The most that was reached, on all devices together: operations and bytes per second."""

    flops: float
    bytes: float


def ceilings(mesh: Mesh, precision: str, clock: str) -> Ceilings:
    """Of large square matrix products with operands in `precision`, and of x + 1 in float32."""
    return Ceilings(_product_rate(mesh, precision, clock), _copy_rate(mesh, clock))


def _product_rate(mesh: Mesh, precision: str, clock: str) -> float:
    side, dtype = 2048 if on_cpu(mesh) else 8192, jnp.dtype(precision)
    rows = side * mesh.size
    whole = NamedSharding(mesh, PartitionSpec())

    def make(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        left, right = jax.random.split(key)
        shape = (side, side)
        return (
            jax.random.normal(left, (rows, side), dtype),
            jax.random.normal(right, shape, dtype),
        )

    places = (NamedSharding(mesh, PartitionSpec(mesh.axis_names)), whole)
    left, right = jax.jit(make, out_shardings=places)(jax.random.key(0))
    # The faster of the two is what the machine can do: CPUs differ in which of them is.
    best = min(
        timed(lambda out=out: _product(left, right, out), 5, clock).low
        for out in {dtype, jnp.dtype("float32")}
    )
    return 2.0 * rows * side * side / best


@functools.partial(jax.jit, static_argnums=2)
def _product(left: jax.Array, right: jax.Array, out: Any) -> jax.Array:
    return jnp.dot(left, right, preferred_element_type=out)


def _copy_rate(mesh: Mesh, clock: str) -> float:
    count = (2**25 if on_cpu(mesh) else 2**29) * mesh.size
    numbers = jax.jit(lambda: jnp.ones(count), out_shardings=batch_sharding(mesh))()
    size = numbers.nbytes
    add = jax.jit(lambda numbers: numbers + 1, donate_argnums=0)  # or fresh memory would be timed

    def run() -> jax.Array:
        nonlocal numbers
        numbers = add(numbers)
        return numbers

    return 2.0 * size / timed(run, 5, clock).low
