"""One case measured: seconds, operations and bytes as shares of what the machine can do."""

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from wmpo_jax.benchmark.cases import Case
from wmpo_jax.benchmark.timing import Ceilings, Spread, timed
from wmpo_jax.planning import flops


@dataclasses.dataclass(frozen=True)
class Bench:
    """What every section needs.

    Attributes:
      limits: of this machine in this precision.
      repeats: runs of each program that are counted.
      clock: of `timing.CLOCKS`.
      programs: names of the only ones that are measured; none for all.
      scene: of LIBERO, recorded; see `real.libero`.
      precisions: that the comparison with PyTorch runs in.
    """

    config: ConfigDict
    mesh: Mesh
    limits: Ceilings
    repeats: int
    clock: str
    programs: Sequence[str]
    precisions: Sequence[str]
    scene: Path | None


@dataclasses.dataclass(frozen=True)
class Result:
    """Of a case.

    Attributes:
      count, unit: what one run makes.
      seconds: of a run, after compilation.
      operations: of a run, in matrix products and convolutions, on all devices; what a backward
        pass recomputes counts again.
      traffic: bytes that those products read and write, each operand once.
      temporaries: bytes on one device beside arguments, as the compiler says.
      flop_share, byte_share: of the measured ceilings.
    """

    name: str
    detail: str
    count: int
    unit: str
    seconds: Spread
    compile_seconds: float
    operations: float
    traffic: float
    temporaries: int
    flop_share: float
    byte_share: float

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.count / self.seconds.median

    def row(self) -> dict[str, Any]:
        """For JSON and the table."""
        seconds = self.seconds._asdict()
        return {**dataclasses.asdict(self), "seconds": seconds, "rate": self.rate}


class Prepared:
    """A compiled case with its arguments; calling it runs it once."""

    def __init__(self, case: Case) -> None:
        traced = case.function.trace(*case.arguments)
        self.operations = flops.count(traced.jaxpr)
        self.traffic = flops.traffic(traced.jaxpr)
        lowered = traced.lower()
        self._donated = [
            place
            for place, info in enumerate(lowered.args_info[0])
            if any(leaf.donated for leaf in jax.tree.leaves(info))
        ]
        started = time.perf_counter()
        self.compiled = lowered.compile()
        self.compile_seconds = time.perf_counter() - started
        self._arguments = [random_like(number, a) for number, a in enumerate(case.arguments)]

    def __call__(self) -> Any:
        results = self.compiled(*self._arguments)
        for place, used_up in enumerate(self._donated):  # what comes back takes their place
            self._arguments[used_up] = results[place]
        return results


def measure(case: Case, bench: Bench) -> Result:
    """Compiles a case and runs it several times after a first run."""
    run, limits = Prepared(case), bench.limits
    seconds = timed(run, bench.repeats, bench.clock)
    return Result(
        name=case.name,
        detail=case.detail,
        count=case.count,
        unit=case.unit,
        seconds=seconds,
        compile_seconds=run.compile_seconds,
        operations=run.operations,
        traffic=run.traffic,
        temporaries=run.compiled.memory_analysis().temp_size_in_bytes,
        flop_share=run.operations / seconds.median / limits.flops,
        byte_share=run.traffic / seconds.median / limits.bytes,
    )


def random_like(seed: int, tree: Any) -> Any:
    """Arrays of these shapes, made where they belong; integers are zeros, whatever they count.

    Numbers are about as large as initial weights. They are samples of a sine, which compiles in a
    fraction of the time that random generators for hundreds of arrays take.
    """
    leaves, structure = jax.tree.flatten(tree)

    def fill(number: int, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(seed)
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            index = jax.lax.iota(jnp.float32, math.prod(leaf.shape)).reshape(leaf.shape)
            return (0.03 * jnp.sin(1.7 * index + number)).astype(leaf.dtype)
        return jnp.zeros(leaf.shape, leaf.dtype)

    def make() -> list[jax.Array]:
        return [fill(number, leaf) for number, leaf in enumerate(leaves)]

    made = jax.jit(make, out_shardings=[leaf.sharding for leaf in leaves])()
    return jax.tree.unflatten(structure, made)
