"""How fast are the programs of the stages here, and how close to what this machine can do?

    python -m wmpo_jax.benchmark                         # tiny networks, minutes on two cores
    python -m wmpo_jax.benchmark --preset=small --sections=imagination,growth
    python -m wmpo_jax.benchmark --preset=small --vs=torch --out=benchmark.json
    python -m wmpo_jax.benchmark --sections=step         # where a training step's time goes

Networks are untrained: their speed does not depend on their weights. Compilation is not counted,
and shown apart. With --vs=torch the same networks run in PyTorch, alternating with ours.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from wmpo_jax.benchmark.presets import PRECISIONS, PRESETS, preset_config
from wmpo_jax.runtime import environment
from wmpo_jax.runtime.errors import UserError

OURS = ("reality", "imagination", "training", "steps", "growth", "step")


def main(argv: Sequence[str]) -> int:
    """Prints the tables; returns the exit status: 0, or 2 for misuse."""
    parser = argparse.ArgumentParser(prog="python -m wmpo_jax.benchmark", allow_abbrev=False)
    parser.add_argument("--preset", default="tiny", help=", ".join(PRESETS))
    parser.add_argument("--precision", help="float32 (default) or bfloat16; with --vs both")
    parser.add_argument(
        "--sections",
        type=_names,
        default=(),
        help=f"of {', '.join(OURS)}; default all but with --vs",
    )
    parser.add_argument("--vs", help="torch: the same networks in PyTorch, in the same run")
    parser.add_argument("--programs", type=_names, default=(), help="only these: sampler,decode")
    parser.add_argument(
        "--eager", action="store_true", help="no torch.compile, which takes minutes"
    )
    parser.add_argument("--scene", type=Path, help="of LIBERO, by wmpo_jax.envs.libero.truth")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each program")
    parser.add_argument("--clock", default="wall", help="wall, or cpu on a machine that others use")
    parser.add_argument("--out", type=Path, help="a .json file; its plot is written beside it")
    parser.epilog = "Any field of the config: --config.improve.groups=2"
    flags, rest = parser.parse_known_args(argv)
    try:
        return _run(flags, rest)
    except UserError as error:
        print(f"wmpo_jax: {error}", file=sys.stderr)
        return 2


def _run(flags: argparse.Namespace, rest: Sequence[str]) -> int:
    _check(flags, rest)
    overrides = tuple(flag.removeprefix("--config.") for flag in rest)
    config = preset_config(flags.preset, flags.precision or PRECISIONS[0], overrides)
    # Threads are compared with threads: with PyTorch in the run, ours has one device too.
    environment.prepare(1 if flags.vs else config.cpu_devices)
    from wmpo_jax.benchmark.session import Session

    session = Session(config, flags)
    if flags.vs:
        session.compare(compiled=not flags.eager)
    default = () if flags.vs else OURS
    for name in flags.sections or default:
        session.section(name)
    session.plot()
    return 0


def _check(flags: argparse.Namespace, rest: Sequence[str]) -> None:
    strays = [flag for flag in rest if not flag.startswith("--config.")]
    unknown = [name for name in flags.sections if name not in OURS]
    if strays:
        raise UserError(f"There is no flag {' '.join(strays)}; --help lists them.")
    if unknown:
        raise UserError(f"There is no section {unknown[0]!r}; choose from {', '.join(OURS)}.")
    if flags.vs not in (None, "torch"):
        raise UserError(f"--vs is {flags.vs!r}; the only other side is torch.")
    if flags.clock not in ("wall", "cpu"):
        raise UserError(f"--clock is {flags.clock!r}; choose wall or cpu.")
    if flags.repeats < 1:
        raise UserError(f"--repeats is {flags.repeats}; give 1 or more.")
    if flags.out is not None and flags.out.suffix != ".json":
        raise UserError(f"--out is {flags.out}; give a file that ends in .json.")


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


if __name__ == "__main__":
    environment.restart_with_huge_pages()
    sys.exit(main(sys.argv[1:]))
