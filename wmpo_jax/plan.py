"""Will this config fit on hardware that is not here, and how fast at best?

    python -m wmpo_jax.plan --config=configs/libero.py --topology=v5p:4x4x4
    python -m wmpo_jax.plan --config=configs/libero.py:lora --topology=80GB:1
    python -m wmpo_jax.plan --all

Programs are compiled, minutes each: by libtpu (extra `tpu`) or JAX's CUDA plugin (`gpu_plan`).
"""

from wmpo_jax.runtime import interrupts

if __name__ == "__main__":  # before anything heavy is imported
    interrupts.exit_at_once()

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from wmpo_jax.planning.chips import Machine, machine
from wmpo_jax.runtime import environment
from wmpo_jax.runtime.config import load_config
from wmpo_jax.runtime.errors import UserError

ONE_GPU = (
    "sft.batch_size=8",
    "sft.accumulate=8",
    "world_model.batch_size=4",
    "world_model.accumulate=32",
    "reward.batch_size=16",
    "improve.groups=8",
    "improve.minibatch=16",
    "improve.micro_chunks=1",
)


class Preset(NamedTuple):
    """A line-up of docs/plan.md."""

    title: str
    config: str
    topology: str
    overrides: tuple[str, ...] = ()


PRESETS = (
    Preset("LoRA on one 80-GB GPU", "configs/libero.py:lora", "80GB:1", ONE_GPU),
    Preset("Full fine-tuning on eight 80-GB GPUs", "configs/libero.py", "80GB:8", (
        "improve.groups=32", "improve.micro_chunks=1",
        "world_model.batch_size=32", "world_model.accumulate=4",
    )),
    Preset("64 chips of v5e", "configs/libero.py", "v5e:8x8", ("improve.micro_chunks=2",)),
    Preset("64 chips of v5p", "configs/libero.py", "v5p:4x4x4"),
    Preset("256 chips of v6e", "configs/libero.py", "v6e:16x16", (
        "mesh.data=4", "sft.batch_size=256", "world_model.batch_size=256", "reward.batch_size=256",
        "improve.minibatch=256",
    )),
)  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Prints the tables; returns the exit status: 0 all fits, 1 something does not, 2 misuse."""
    parser = argparse.ArgumentParser(prog="python -m wmpo_jax.plan", allow_abbrev=False)
    parser.add_argument("--config", default="configs/libero.py")
    parser.add_argument("--topology", help="v5p:4x4x4, v5e:8x8, v6e:16x16, 80GB:8, H200:1, 24GB:4")
    parser.add_argument("--phases", help="only these, such as imagine,update; default all")
    parser.add_argument("--all", action="store_true", help="one GPU to 256 chips of v6e")
    parser.epilog = "Any field of the config: --config.improve.micro_chunks=2"
    flags, rest = parser.parse_known_args(argv)
    overrides = tuple(flag.removeprefix("--config.") for flag in rest)
    try:
        if any(not flag.startswith("--config.") for flag in rest):
            raise UserError(f"There is no flag {' '.join(rest)}; --help lists them.")
        if not flags.all and not flags.topology:
            raise UserError("Give --topology=v5p:4x4x4 (say) or --all.")
        one = Preset(flags.topology or "", flags.config, flags.topology or "", overrides)
        return print_plans(PRESETS if flags.all else (one,), flags.phases)
    except UserError as error:
        print(f"wmpo_jax: {error}", file=sys.stderr)
        return 2


def print_plans(presets: Sequence[Preset], phases: str | None) -> int:
    """A title and a table for each preset."""
    machines = [machine(preset.topology) for preset in presets]
    environment.prepare()
    environment.compile_only()
    fits = True
    for preset, hardware in zip(presets, machines, strict=True):
        flags = " ".join(f"--config.{override}" for override in preset.overrides)
        command = f"python -m wmpo_jax.plan --config={preset.config} --topology={preset.topology}"
        print(f"\n## {preset.title}\n\n    {command} {flags}".rstrip() + "\n", flush=True)
        fits &= _print_table(preset, hardware, phases)
    return 0 if fits else 1


def _print_table(preset: Preset, hardware: Machine, phases: str | None) -> bool:
    from wmpo_jax.planning import estimate, programs, table

    config = load_config(preset.config, preset.overrides)
    if "networks" not in config:
        raise UserError(
            f"{preset.config} has no section networks, so its networks are tiny: plans are for "
            "released sizes, as in configs/libero.py without a variant, or with lora or mid."
        )
    if config.products == "auto":
        config.products = "bfloat16"  # accelerators have it, whatever this machine has
    names = phases.split(",") if phases else list(programs.PHASES)
    unknown = [name for name in names if name not in programs.PHASES]
    if unknown:
        raise UserError(
            f"There is no phase {unknown[0]}; choose from {', '.join(programs.PHASES)}."
        )
    mesh = _mesh(config, hardware)
    rows = []
    for name in names:
        print(f"plan: {name} ...", file=sys.stderr, flush=True)
        rows.append(estimate.row(name, config, hardware, mesh))
    print(table.table(rows, config), flush=True)
    return all(row.fits for row in rows)


def _mesh(config: Any, hardware: Machine) -> Any:
    """Of the machine's chips."""
    from wmpo_jax.planning import compiler
    from wmpo_jax.runtime.mesh import mesh_shape

    return compiler.topology_mesh(hardware, mesh_shape(config, hardware.count))


if __name__ == "__main__":
    sys.exit(interrupts.run(main))
