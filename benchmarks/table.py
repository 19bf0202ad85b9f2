"""The table of results: {tasks} x {methods} x {P} x {seeds}; what is there already is not repeated.

    python -m benchmarks.table docs/results/table --runs=runs/table          # everything
    python -m benchmarks.table docs/results/table --runs=runs/table --plan   # how long it takes

Writes <target>.md with rates (Wilson), paired differences to the base policy and to WMPO, episodes
and minutes, and <target>.json with the outcome of every episode. A run is a workdir of
wmpo_jax.main, of which later ones take over what they share with earlier ones (--base):
demonstrations, play and base policy are made once per task and seed.
"""

import argparse
import dataclasses
import itertools
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.table_page import write
from wmpo_jax.report.record import read_run
from wmpo_jax.runtime.config import load_config
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import load_json
from wmpo_jax.runtime.paths import resolve

TASKS = ("press", "push", "lift", "stack")
BUDGETS = (128, 512)
SEEDS = (0, 1, 2)
BASELINES = ("filtered_bc", "dpo", "grpo_on_rollouts", "grpo_online")
KINDS = ("wmpo", "unaligned", "lifelong", "no_play")


@dataclasses.dataclass(frozen=True)
class Run:
    """One workdir.

    Attributes:
      kind: of KINDS. `wmpo` trains the baselines too.
      budget: P, real rollouts.
      variant: of configs/tiny.py; "" for the one of the task.
    """

    kind: str
    task: str
    budget: int
    seed: int
    variant: str

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.task}_{self.budget}_{self.seed}_{self.kind}"

    @property
    def config(self) -> str:
        """The config file and its variant."""
        variant = self.variant or ("" if self.task == "press" else self.task)
        return "configs/tiny.py" + (f":{variant}" if variant else "")

    def overrides(self) -> list[str]:
        """What differs from the config file."""
        config = load_config(self.config, [])
        starts = self.budget // config.collect.group_size
        fields = [f"task={self.task}", f"seed={self.seed}"]
        if self.kind == "lifelong":  # a half, a quarter and a quarter of P
            half, quarter = starts // 2, starts // 4
            fields.append(f"collect.starts={half}")
            fields.append(f"lifelong.starts=({quarter}, {starts - half - quarter})")
        else:
            fields.append(f"collect.starts={starts}")
        if self.kind == "unaligned":  # as many steps, none of them on the rollouts
            model = config.world_model
            fields.append("world_model.align_steps=0")
            fields.append(f"world_model.pretrain_steps={model.pretrain_steps + model.align_steps}")
        if self.kind == "no_play":
            fields.append("play.episodes=0")
        return fields

    def base(self, smallest: int) -> "Run | None":
        """The run whose first stages it takes over."""
        if self.kind in ("unaligned", "lifelong"):
            return dataclasses.replace(self, kind="wmpo")
        if self.kind == "wmpo" and self.budget != smallest:
            return dataclasses.replace(self, budget=smallest)
        return None

    def ended(self, root: Path) -> bool:
        """Whether everything that the table shows of it is there."""
        wanted = ("evaluate", *(BASELINES if self.kind == "wmpo" else ()))
        return all((root / self.name / f"stages/{stage}.json").exists() for stage in wanted)

    def seconds(self, root: Path, smallest: int) -> float:
        """Of an ended run, without what it took over."""
        base = self.base(smallest)
        taken = set(_stages(root / base.name)) & _linked(root / self.name) if base else set()
        stages = _stages(root / self.name)
        return sum(seconds for name, seconds in stages.items() if name not in taken)


def _stages(workdir: Path) -> dict[str, float]:
    stages = read_run(workdir).stages
    return {name: float(result["seconds"]) for name, result in stages.items()}


def _linked(workdir: Path) -> set[str]:
    """Stages that were taken over."""
    file = workdir / "base.json"
    return set(load_json(file)["stages"]) if file.exists() else set()


def commands(run: Run, root: Path, smallest: int) -> Iterator[list[str]]:
    """The cycle, then the baselines, which need the ledger of the whole cycle."""
    base = run.base(smallest)
    shared = [
        *(sys.executable, "-m", "wmpo_jax.main", f"--config={run.config}"),
        f"--workdir={root / run.name}",
        *(f"--config.{field}" for field in run.overrides()),
        *([f"--base={root / base.name}"] if base else []),
    ]
    yield shared
    if run.kind == "wmpo":
        yield [*shared, f"--stages={','.join(BASELINES)},report"]


def all_runs(flags: argparse.Namespace) -> list[Run]:
    """In an order in which bases come first."""
    cells = itertools.product(flags.seeds, flags.tasks, flags.budgets, flags.kinds)
    return [Run(kind, task, budget, seed, flags.variant) for seed, task, budget, kind in cells]


def say_plan(runs: Sequence[Run], root: Path) -> None:
    """How many runs there are, and how long the others take by those of their kind."""
    smallest = min(run.budget for run in runs)
    known: dict[tuple[str, str], list[float]] = {}
    for run in (run for run in runs if run.ended(root)):
        known.setdefault((run.kind, run.task), []).append(run.seconds(root, smallest))
    left = [run for run in runs if not run.ended(root)]
    done = sum(sum(times) for times in known.values())
    print(f"{len(runs) - len(left)} of {len(runs)} runs are there, made in {done / 3600:.2f} h.")
    everything = [time for times in known.values() for time in times]
    if left and everything:
        mean = sum(everything) / len(everything)
        each = {key: sum(times) / len(times) for key, times in known.items()}
        rest = sum(each.get((run.kind, run.task), mean) for run in left)
        print(f"The other {len(left)} take about {rest / 3600:.2f} h more on this machine.")
    elif left:
        print("How long they take is known after the first one.")


def perform(runs: Sequence[Run], root: Path) -> None:
    """Makes the runs that are missing; UserError when one of them fails."""
    smallest = min(run.budget for run in runs)
    for run in runs:
        if run.ended(root):
            continue
        print(f"{run.name} ...", flush=True)
        for command in commands(run, root, smallest):
            status = subprocess.run(command).returncode
            if status:
                raise UserError(
                    f"The run {run.name} ended with status {status} (see above): correct what it "
                    "says, then the same command continues."
                )
        say_plan(runs, root)


def main(argv: Sequence[str]) -> int:
    """`argv`: the target without its ending, then flags."""
    words = lambda text: tuple(text.split(","))  # noqa: E731
    numbers = lambda text: tuple(int(word) for word in text.split(","))  # noqa: E731
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", allow_abbrev=False)
    parser.add_argument("target", type=resolve, help="such as docs/results/table")
    parser.add_argument("--runs", type=resolve, required=True, help="folder of the workdirs")
    parser.add_argument("--tasks", type=words, default=TASKS)
    parser.add_argument("--budgets", type=numbers, default=BUDGETS, help="real rollouts P")
    parser.add_argument("--seeds", type=numbers, default=SEEDS)
    parser.add_argument("--kinds", type=words, default=KINDS)
    parser.add_argument("--variant", default="", help="smoke: too short to learn")
    parser.add_argument("--plan", action="store_true", help="say what is left and stop")
    flags = parser.parse_args(argv)
    unknown = [kind for kind in flags.kinds if kind not in KINDS]
    try:
        if unknown or "wmpo" not in flags.kinds:
            raise UserError(f"--kinds has wmpo and any of {', '.join(KINDS)}, not {unknown}.")
        runs = all_runs(flags)
        say_plan(runs, flags.runs)
        if not flags.plan:
            perform(runs, flags.runs)
            write(flags.target, [(run, flags.runs / run.name) for run in runs])
    except UserError as error:
        print(f"table: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
