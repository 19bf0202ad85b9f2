"""How much memory converting a policy takes, as a function of its size.

    python benchmarks/conversion_memory.py --layers 2 6

Makes OpenVLA-7B-shaped folders (bfloat16, safetensors shards) with fewer layers, converts each to
Orbax and back in processes of their own, and prints their peak resident memory. Between two sizes
the difference per GB of weights is what a larger checkpoint would add.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from wmpo_jax.conversion.exporting import Outgoing, write_folder
from wmpo_jax.conversion.kinds import KINDS
from wmpo_jax.models.vla import VLAConfig

SHARD_BYTES = 10**9
VALUES = np.random.default_rng(0).normal(size=2**24).astype(jnp.bfloat16)


class Run(NamedTuple):
    """One conversion: bytes of weights, seconds, peak resident bytes of its process."""

    weights: int
    seconds: float
    peak: int


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 6], help="Llama layers")
    flags = parser.parse_args()
    runs: dict[str, list[Run]] = {"import": [], "export": []}
    for layers in flags.layers:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            size = make_folder(folder / "original", layers)
            for direction, source, target in (
                ("import", "original", "ours"),
                ("export", "ours", "back"),
            ):
                run = convert(direction, folder / source, folder / target, size)
                runs[direction].append(run)
                print(f"{direction}, {layers} layers: {describe(run)}", flush=True)
    for direction, (*_, small, large) in runs.items():
        slope = (large.peak - small.peak) / (large.weights - small.weights)
        print(f"{direction}: {slope:+.3f} GB of memory per further GB of weights")


def make_folder(folder: Path, layers: int) -> int:
    """A policy of the released widths; towers of three blocks. Returns the bytes of its weights."""
    full = VLAConfig.openvla_7b(jnp.float32)
    config = dataclasses.replace(
        full,
        dino=dataclasses.replace(full.dino, depth=3),
        siglip=dataclasses.replace(full.siglip, depth=3),
        llama=dataclasses.replace(full.llama, depth=layers),
    )
    kind = KINDS["policy"]
    shapes = kind.shapes(config) | dict(kind.dead(config))
    folder.mkdir()
    tensors = {name: outgoing(shape) for name, shape in shapes.items() if shape}
    write_folder(folder, kind.weight_stem, tensors, SHARD_BYTES)
    (folder / "config.json").write_text(json.dumps({"model_type": "openvla"}))
    return sum(tensor.nbytes for tensor in tensors.values())


def outgoing(shape: tuple[int, ...]) -> Outgoing:
    return Outgoing(shape, VALUES.dtype, lambda: np.resize(VALUES, shape))


def convert(direction: str, source: Path, target: Path, size: int) -> Run:
    command = [sys.executable, "-m", "wmpo_jax.convert", direction, "--kind=policy"]
    started = time.perf_counter()
    process = subprocess.Popen([*command, f"--source={source}", f"--target={target}"])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{direction} ended with status {status}")
    return Run(size, time.perf_counter() - started, usage.ru_maxrss * 1024)


def describe(run: Run) -> str:
    return (
        f"{run.weights / 1e9:.2f} GB of weights in {run.seconds:.0f} s, peak memory "
        f"{run.peak / 1e9:.2f} GB, {run.peak / run.weights:.2f} GB per GB"
    )


if __name__ == "__main__":
    main()
