"""The whole cycle on two hosts of this machine and on one, and how far apart they end.

    python -m benchmarks.two_hosts /tmp/hosts           # configs/tiny.py:smoke
    python -m benchmarks.two_hosts /tmp/hosts --small   # fewer steps still, compiled in haste

Both have two devices in all. Prints the seconds of either, the relative difference of the trained
parameters after every stage, and of what the stages recorded. A workdir that is there already is
continued: delete the folder to measure anew.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from tests.runtime import two_hosts
from wmpo_jax.runtime.files import load_arrays

SMALL = {
    "demos.episodes": 16,
    "play.episodes": 16,
    "sft.steps": 4,
    "collect.starts": 2,
    "world_model.pretrain_steps": 2,
    "world_model.align_steps": 2,
    "world_model.hidden": 32,
    "world_model.depth": 1,
    "reward.steps": 4,
    "improve.groups": 2,
    "gates.episodes": 3,
    "evaluate.episodes": 8,
    "evaluate.batch_size": 4,
}
STAGES = ("sft", "autoencoder", "world_model", "reward", "improve")
RECORDS = ("data/demos/episodes.npz", "data/rollouts/episodes.npz", "data/evaluation/results.npz")


def run(workdir: Path, hosts: int, small: bool) -> float:
    """Seconds of a whole run; ends this program when one of its processes fails."""
    flags = [f"--config.{name}={value}" for name, value in SMALL.items()] if small else []
    settings = {"XLA_FLAGS": two_hosts.QUICK if small else ""}
    started = time.monotonic()
    processes = two_hosts.start(
        "wmpo_jax.main",
        hosts,
        f"--workdir={workdir}",
        *flags,
        environments=(settings, settings),
    )
    for status, errors in two_hosts.finish(processes, seconds=7200):
        if status:
            sys.exit(errors)
    return time.monotonic() - started


def compare(one: Path, two: Path) -> None:
    """Prints how far the second workdir is from the first."""
    for stage in STAGES:
        trees = two_hosts.parameters(two, stage), two_hosts.parameters(one, stage)
        print(f"parameters of {stage}: relative difference {two_hosts.difference(*trees):.1e}")
    for name in RECORDS:
        found, expected = (load_arrays(folder / name, "of either run") for folder in (two, one))
        shares = {k: float(np.mean(found[k] == expected[k])) for k in expected}
        print(f"{name}, equal entries: {', '.join(f'{k} {v:.4f}' for k, v in shares.items())}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--small", action="store_true")
    flags = parser.parse_args()
    workdirs = {hosts: flags.folder / f"{hosts}_hosts" for hosts in (2, 1)}
    for hosts, workdir in workdirs.items():
        print(f"{hosts} host(s): {run(workdir, hosts, flags.small):.0f} s", flush=True)
    compare(workdirs[1], workdirs[2])


if __name__ == "__main__":
    main()
