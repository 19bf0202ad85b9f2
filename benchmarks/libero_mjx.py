"""LIBERO in MJX against LIBERO in C: the same starts, the same actions, task by task.

    python -m benchmarks.libero_mjx                       # libero_spatial, 20 episodes per task
    python -m benchmarks.libero_mjx --tasks 0 3 --jobs=1

Prints a row per task, and writes them where `fidelity.check_supported` looks. A task takes some
minutes of one core: 20 scripted episodes in C, a compilation, and their actions in MJX. Tasks that
have been measured against the MuJoCo of the simulators' environment are left out, so that the same
command goes on where it was stopped; `--tasks` measures the named ones again.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from wmpo_jax.runtime import environment
from wmpo_jax.runtime.files import save_json


def measure(suite: str, task: int, episodes: int) -> dict:
    """One task, in this process."""
    from wmpo_jax.envs.libero import truth
    from wmpo_jax.envs.libero_mjx import fidelity
    from wmpo_jax.envs.robosuite import environment as simulators

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "episodes.npz"
        arguments = (suite, str(task), str(file), f"--episodes={episodes}")
        command = simulators.command("wmpo_jax.envs.libero.truth", *arguments)
        before = time.monotonic()
        subprocess.run(command, env=simulators.variables(), check=True)
        seconds = {"c": time.monotonic() - before}
        found, played = truth.load(file)
    before = time.monotonic()
    physics = fidelity.make_physics(found, played[0])
    states = fidelity.replay(physics, played)
    seconds["mjx"] = time.monotonic() - before
    row = fidelity.compare(task, played, states)
    row = dataclasses.replace(row, mujoco=simulators.versions(("mujoco",))["mujoco"])
    return {"row": dataclasses.asdict(row), "seconds": seconds, "steps": len(states) * len(played)}


def table(rows: list[dict]) -> str:
    """Markdown."""
    from wmpo_jax.envs.libero_mjx.fidelity import Fidelity

    lines = [
        "| task | MuJoCo in C | n | success in C | in MJX | same outcome | hand, mm | thing, mm "
        "| 90 % | broke | runs |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        one = Fidelity(**row)
        errors = (
            " / ".join(f"{value:.1f}" for value in values)
            for values in (one.hand_mm, one.thing_mm, one.thing_p90_mm)
        )
        lines.append(
            f"| {one.task} | {one.mujoco} | {one.episodes} | {one.successes} | "
            f"{one.mjx_successes} | {one.agree / one.episodes:.0%} | {' | '.join(errors)} | "
            f"{one.invalid} | {'yes' if one.supported else 'no'} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="libero_spatial")
    parser.add_argument("--tasks", type=int, nargs="*", help="default: those not measured yet")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    flags = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    environment.prepare()
    from wmpo_jax.envs.libero.benchmark import HORIZONS, task_names
    from wmpo_jax.envs.libero_mjx import fidelity
    from wmpo_jax.envs.robosuite import environment as simulators

    if flags.suite not in HORIZONS:
        parser.error(f"there is no suite {flags.suite}")
    stored = json.loads(fidelity.FILE.read_text())
    rows = {row["task"]: row for row in stored.get(flags.suite, [])}
    every = range(len(task_names(flags.suite)))
    if not set(flags.tasks or ()) <= set(every):
        parser.error(f"{flags.suite} has the tasks 0 to {every[-1]}")
    current = simulators.versions(("mujoco",))["mujoco"]
    tasks = flags.tasks or [n for n in every if rows.get(n, {}).get("mujoco") != current]
    with concurrent.futures.ProcessPoolExecutor(flags.jobs, max_tasks_per_child=1) as pool:
        jobs = [pool.submit(measure, flags.suite, task, flags.episodes) for task in tasks]
        for job in concurrent.futures.as_completed(jobs):
            found = job.result()
            row, seconds = found["row"], found["seconds"]
            rows[row["task"]] = row
            stored[flags.suite] = [rows[task] for task in sorted(rows)]
            save_json(Path(str(fidelity.FILE)), stored)
            print(
                f"task {row['task']}: {row['agree']} of {row['episodes']} agree; C "
                f"{seconds['c']:.0f} s, MJX {seconds['mjx']:.0f} s for {found['steps']} steps",
                flush=True,
            )
    print(table([rows[task] for task in sorted(rows)]))


if __name__ == "__main__":
    main()
