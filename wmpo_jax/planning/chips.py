"""Machines by name: `v5p:4x4x4` is a TPU topology, `80GB:8` eight GPUs."""

import math
from typing import NamedTuple

from wmpo_jax.runtime.errors import UserError


class Gpu(NamedTuple):
    """What XLA's compiler has to know of a GPU.

    Attributes:
      capability: CUDA's compute capability.
      cores, threads: streaming multiprocessors, and threads of each.
      shared_memory: bytes of a multiprocessor.
      bandwidth, cache, memory: bytes per second, bytes, bytes.
      clock: GHz.
    """

    name: str
    capability: tuple[int, int]
    cores: int
    threads: int
    shared_memory: int
    bandwidth: int
    cache: int
    memory: int
    clock: float


class Chip(NamedTuple):
    """Datasheet values of one accelerator (peaks, which no program reaches).

    Attributes:
      memory: bytes that programs may use.
      flops: bfloat16 floating-point operations per second.
      links: bytes per second to the other chips, all links together.
      gpu: None for TPUs, which libtpu knows by name.
    """

    memory: float
    flops: float
    links: float
    gpu: Gpu | None = None


# Memory of TPUs is what their compiler allows: a little less than the datasheet's.
TPUS = {
    "v5e": Chip(15.75 * 2**30, 197e12, 200e9),
    "v5p": Chip(95.74 * 2**30, 459e12, 600e9),
    "v6e": Chip(31.25 * 2**30, 918e12, 448e9),
}
_RTX_4090 = Gpu(
    "NVIDIA GeForce RTX 4090", (8, 9), 128, 1536, 102400, 1_008_000_000_000, 75_497_472,
    25_393_692_672, 2.52,
)  # fmt: skip
_H100 = Gpu(
    "NVIDIA H100 80GB HBM3", (9, 0), 132, 2048, 233472, 3_352_320_000_000, 52_428_800,
    84_942_979_072, 1.98,
)  # fmt: skip
_H200 = _H100._replace(
    name="NVIDIA H200", bandwidth=4_800_000_000_000, cache=62_914_560, memory=150_754_820_096
)
# A CUDA context and the allocator keep about a twentieth for themselves.
GPUS = {
    "24GB": Chip(0.95 * 24e9, 165e12, 32e9, _RTX_4090),  # RTX 4090, PCIe
    "80GB": Chip(0.95 * 80e9, 989e12, 450e9, _H100),  # H100 SXM, NVLink
    "H200": Chip(0.95 * 141e9, 989e12, 450e9, _H200),
}
MOST_GPUS = 64


class Machine(NamedTuple):
    """`count` chips. `topology` is what libtpu calls them, None for GPUs."""

    name: str
    chip: Chip
    count: int
    topology: str | None


def machine(name: str) -> Machine:
    """The machine called `name`.

    Raises:
      UserError: no such chip, or a shape that is no shape.
    """
    kind, _, shape = name.partition(":")
    if kind in TPUS and all(side.isdecimal() and int(side) for side in shape.split("x")):
        return Machine(name, TPUS[kind], math.prod(map(int, shape.split("x"))), name)
    if kind in GPUS and shape.isdecimal() and 1 <= int(shape) <= MOST_GPUS:
        return Machine(name, GPUS[kind], int(shape), None)
    raise UserError(
        f"There is no topology {name!r}: give a TPU with its shape ({', '.join(TPUS)}; as in "
        f"v5p:4x4x4) or GPUs with their number ({', '.join(GPUS)}; as in 80GB:8, up to "
        f"{MOST_GPUS})."
    )
