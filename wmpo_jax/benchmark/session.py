"""One run of the benchmark: sections are printed and saved as they end."""

import argparse
import os
import platform
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from wmpo_jax.benchmark import sections, tables
from wmpo_jax.benchmark.figure import save_figure
from wmpo_jax.benchmark.measure import Bench
from wmpo_jax.benchmark.presets import PRECISIONS, PRESETS
from wmpo_jax.benchmark.timing import ceilings
from wmpo_jax.runtime import mesh
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import save_json

# Instructions for products of bfloat16, as Linux lists them.
CPU_FLAGS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")


class Session:
    """Measures on all devices of this process.

    Raises:
      UserError: a preset that is too large for a CPU.
    """

    def __init__(self, config: ConfigDict, flags: argparse.Namespace) -> None:
        """`flags`: of `__main__`; preset, precision, repeats, clock, programs and out are read."""
        preset, clock = flags.preset, flags.clock
        precision = flags.precision or PRECISIONS[0]
        over = mesh.make_mesh(config)
        if PRESETS[preset].accelerator and mesh.on_cpu(over):
            raise UserError(
                f"The preset {preset} is for accelerators and JAX found none: choose tiny or small."
            )
        limits = ceilings(over, precision, clock)
        self._bench = Bench(
            config=config,
            mesh=over,
            limits=limits,
            repeats=flags.repeats,
            clock=clock,
            programs=flags.programs,
            scene=flags.scene,
            precisions=(flags.precision,) if flags.precision else PRECISIONS,
        )
        self._out: Path | None = flags.out
        self._record: dict[str, Any] = {
            "machine": machine(),
            "versions": mesh.describe(over),
            "preset": preset,
            "precision": precision,
            "clock": clock,
            "ceilings": limits._asdict(),
            "sections": {},
        }
        print(f"{self._record['machine']}\n{self._record['versions']}")
        print(f"preset {preset}, {precision}, seconds of the {clock} clock")
        products, copies = limits.flops / 1e9, limits.bytes / 1e9
        print(f"products reach {products:.4g} GFLOP/s, copies {copies:.4g} GB/s", flush=True)

    def section(self, name: str) -> None:
        """Measures, prints and saves one of `sections.SECTIONS`."""
        self._keep(name, sections.SECTIONS[name](self._bench))

    def compare(self, compiled: bool) -> None:
        """Our programs against PyTorch's."""
        from wmpo_jax.benchmark import versus  # imports torch

        self._keep("PyTorch", versus.rows(self._bench, compiled))

    def plot(self) -> None:
        """Beside the record, if there is one."""
        if self._out is not None:
            save_figure(self._out.with_suffix(".png"), self._record)

    def _keep(self, name: str, found: Any) -> None:
        rows: list[dict[str, Any]] = []
        self._record["sections"][name] = rows
        print(f"\n## {name}\n")
        for row in found:  # line by line, for runs that are cut off
            lines = tables.table([row]).splitlines()
            print("\n".join(lines[-1:] if rows else lines), flush=True)
            rows.append(row)
            if self._out is not None:
                save_json(self._out, self._record)


def machine() -> str:
    """Processor, cores that this process may use, and the instructions that matter."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name, found = platform.processor() or platform.machine(), ""
    information = Path("/proc/cpuinfo")
    if information.exists():
        text = information.read_text()
        lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        values = {key.strip(): value.strip() for key, value in lines.items()}
        name = values.get("model name", name)
        known = values.get("flags", "").split()
        found = ", ".join(flag for flag in CPU_FLAGS if flag in known)
    devices = f"; {jax.device_count()} x {jax.devices()[0].device_kind}"
    return f"{name}, {cores} cores ({found or 'no vector flags known'}){devices}"
