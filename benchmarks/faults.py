"""What a run does about damaged files, full disks, two starts at once and interrupts.

    python -m benchmarks.faults /tmp/faults

Makes a smoke run in the folder (one that is there is used again), damages copies of it in every
way below, gives the command again, and prints a table for docs/reliability.md. Every line must end
with the expected status, without a traceback, and with a message that names what is wrong. Ends
with status 1 when one does not.

Signals, limits and two starts at once need processes of their own; after other damage `main` is
called in this one, which saves a start of Python and JAX each time.
"""

import argparse
import contextlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wmpo_jax import main as program

ROOT = Path(__file__).parents[1]
FLIPS = 200
LIMIT = 200_000  # bytes a file may have where the disk is made small


@dataclass(frozen=True)
class Fault:
    """One kind of damage.

    Attributes:
      damage: done to a copy of a finished run.
      stages: run afterwards.
      status: exit status that is right.
      says: pattern that stderr must match.
    """

    name: str
    damage: Callable[[Path], object]
    stages: str
    status: int
    says: str


def flip(path: Path) -> None:
    """Changes one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def brackets(path: Path) -> None:
    path.write_text("[]\n")


def torn(path: Path) -> None:
    """Half a line more."""
    path.write_bytes(path.read_bytes() + b'{"stage": "ev')


def garbage(path: Path) -> None:
    path.write_bytes(b"\x00garbage\n" + path.read_bytes())


def not_finite(path: Path) -> None:
    """The first number becomes NaN."""
    path.write_text(re.sub(r"\d+\.\d+", "NaN", path.read_text(), count=1))


def repeated(stage: str, damage: Callable[[Path], object]) -> Callable[[Path], None]:
    """`damage` to a run whose `stage` has yet to end."""

    def both(workdir: Path) -> None:
        (workdir / "stages" / f"{stage}.json").unlink()
        damage(workdir)

    return both


def newest(workdir: Path, stage: str = "sft") -> Path:
    """Its newest checkpoint."""
    steps = (path for path in (workdir / "checkpoints" / stage).iterdir() if path.name.isdigit())
    return max(steps, key=lambda path: int(path.name))


def largest(folder: Path) -> Path:
    """The file that holds most of a checkpoint's arrays."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return max(files, key=lambda path: path.stat().st_size)


def all_checkpoints(workdir: Path) -> None:
    for path in (workdir / "checkpoints" / "sft").glob("*/params/_METADATA"):
        empty(path)


def checkpoint_faults() -> Iterator[Fault]:
    """Of a stage that has to continue, of one that is done, and of one that has nothing left."""
    ways = {"a flipped bit": flip, "truncated": halve, "emptied": empty, "deleted": Path.unlink}
    for name, way in ways.items():

        def arrays(workdir: Path, way: Callable[[Path], object] = way) -> None:
            way(largest(newest(workdir)))

        expected = (0, r"sft/\d+ is damaged .*using checkpoint \d+")
        yield Fault(f"array file: {name}", repeated("sft", arrays), "sft", *expected)
    for name, way in (("deleted", Path.unlink), ("is `[]`", brackets)):

        def metadata(workdir: Path, way: Callable[[Path], object] = way) -> None:
            way(newest(workdir) / "params" / "_METADATA")

        expected = (0, r"sft/\d+ is damaged .*_METADATA.*using checkpoint \d+")
        yield Fault(f"`_METADATA`: {name}", repeated("sft", metadata), "sft", *expected)
    yield Fault(
        "all checkpoints of a stage", repeated("sft", all_checkpoints), "sft", 2, "no intact one"
    )
    yield Fault(
        "the last checkpoint of a stage that is done",
        repeated("collect", lambda workdir: flip(largest(newest(workdir) / "params"))),
        "collect",
        0,
        r"sft/\d+ is damaged .*sft is repeated from its checkpoint \d+",
    )


def file_faults() -> Iterator[Fault]:
    """Data files and small files."""
    npz = "data/demos/episodes.npz"
    for name, way in (("a flipped bit", flip), ("truncated", halve), ("no npz", brackets)):

        def episodes(workdir: Path, way: Callable[[Path], object] = way) -> None:
            way(workdir / npz)

        says = r"episodes\.npz is damaged .*delete stages/\w+\.json"
        yield Fault(f"`{npz}`: {name}", repeated("sft", episodes), "sft", 2, says)

    def small(name: str, path: str, way: Callable[[Path], object], status: int, says: str) -> Fault:
        damage = repeated("sft", lambda workdir: way(workdir / path))
        return Fault(f"`{path}`: {name}", damage, "sft", status, says)

    objects = {"`{}`": lambda path: path.write_text("{}"), "truncated": halve}
    for name, way in objects.items():
        yield small(name, "data/demos/statistics.json", way, 2, r"statistics\.json")
        yield small(name, "stages/demos.json", way, 2, r"demos\.json .*delete stages/demos\.json")
        yield small(name, "config.json", way, 2, r"config\.json .*--workdir")
    yield small("deleted", "config.json", Path.unlink, 2, r"config\.json .*--workdir")
    yield small("deleted", "layout.json", Path.unlink, 2, r"layout\.json .*--workdir")
    yield small("a NaN in it", "stages/reward.json", not_finite, 2, r"reward\.json is damaged")
    yield small("a torn last line", "ledger.jsonl", torn, 0, r"last line .*ledger\.jsonl is torn")
    yield small("garbage", "ledger.jsonl", garbage, 2, r"ledger\.jsonl is damaged at line 1")
    unfinished = repeated("sft", lambda workdir: garbage(workdir / "metrics" / "sft.jsonl"))
    says = r"sft\.jsonl is damaged at line 1: delete this file"
    yield Fault("`metrics/sft.jsonl`: garbage", unfinished, "sft", 2, says)


def arguments(workdir: Path, stages: str) -> list[str]:
    config = f"--config={ROOT}/configs/tiny.py:smoke"
    return [config, "--config.tensorboard=False", f"--workdir={workdir}", f"--stages={stages}"]


def again(workdir: Path, stages: str) -> tuple[int, str]:
    """(exit status, stderr) of the command, in this process."""
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            status = program.main(arguments(workdir, stages))
        except Exception:  # what would be a traceback: the table counts it
            traceback.print_exc()
            status = 1
    return status, errors.getvalue()


def start(workdir: Path, stages: str, *flags: str, limit: int | None = None) -> subprocess.Popen:
    """A process of its own, with no file larger than `limit` bytes if that is given."""
    variables = os.environ | {"JAX_PLATFORMS": "cpu"}
    if limit is not None:
        variables["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # its files are not the run's

    process = subprocess.Popen(
        [sys.executable, "-m", "wmpo_jax.main", *arguments(workdir, stages), *flags],
        cwd=ROOT,
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if limit is not None:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    return process


def finish(process: subprocess.Popen, seconds: float = 1800) -> tuple[int, str]:
    """(exit status as a shell reports it, stderr); killed if it has not ended after `seconds`."""
    try:
        errors = process.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        errors = process.communicate()[1]
        errors += f"\nwmpo_jax: no end within {seconds:.0f} s"
    status = process.returncode
    return 128 - status if status < 0 else status, errors  # negative: a signal ended it


class Table:
    """Prints a line per fault and remembers whether one ended as it should not."""

    def __init__(self) -> None:
        self.failed = self.lines = 0
        print("| fault | exit status | what was said | as it should be |\n|---|---|---|---|")

    def line(self, fault: str, status: int, errors: str, right: bool) -> None:
        """Adds a line; a traceback is never right."""
        self.lines += 1
        right = right and "Traceback" not in errors
        said = [line for line in errors.splitlines() if line.startswith("wmpo_jax: ")]
        text = said[-1] if said else ""
        text = re.sub(r"/\S*/(copy|fresh|whole)(?=[/ ])", "RUN", text)
        text = re.sub(r"[0-9a-f]{32}", "...", text)  # a file of arrays
        print(f"| {fault} | {status} | {text[10:230]} | {'yes' if right else 'NO'} |", flush=True)
        if not right:
            self.failed += 1
            print("\n".join(errors.splitlines()[-5:]), file=sys.stderr)


def copied(whole: Path, name: str) -> Path:
    copy = whole.parent / name
    shutil.rmtree(copy, ignore_errors=True)
    return Path(shutil.copytree(whole, copy))


def damaged_files(whole: Path, table: Table) -> None:
    for fault in (*checkpoint_faults(), *file_faults()):
        workdir = copied(whole, "copy")
        fault.damage(workdir)
        status, errors = again(workdir, fault.stages)
        right = status == fault.status and re.search(fault.says, errors) is not None
        table.line(fault.name, status, errors, right)


def flipped_bits(whole: Path, table: Table) -> None:
    """At random places in the newest checkpoint of every stage."""
    from wmpo_jax.runtime import checksums  # imports JAX, before which `main` sets it up

    draw = random.Random(0)
    folder = copied(whole, "copy") / "checkpoints"
    steps = [newest(folder.parent, stage.name) for stage in sorted(folder.iterdir())]
    found = 0
    for _ in range(FLIPS):
        step = draw.choice(steps)
        items = [item for item in ("params", "train_state") if (step / item).exists()]
        path = draw.choice([p for i in items for p in (step / i).rglob("*") if p.stat().st_size])
        if path.is_dir():
            path = largest(path)
        before = path.read_bytes()
        content, place = bytearray(before), draw.randrange(len(before))
        content[place] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        found += bool(checksums.damage(step, items))
        path.write_bytes(before)
    table.line(f"{FLIPS} flipped bits, {found} of them found", 0, "", found == FLIPS)


def two_starts(whole: Path, table: Table) -> None:
    """With two seeds in a fresh folder: one runs, under its own config."""
    for number in range(2):
        workdir = whole.parent / "fresh"
        shutil.rmtree(workdir, ignore_errors=True)
        processes = [start(workdir, "demos", f"--config.seed={seed}") for seed in (1, 2)]
        ends = [finish(process) for process in processes]
        statuses = [status for status, _ in ends]
        winner = statuses.index(0) + 1 if 0 in statuses else 0
        seed = json.loads((workdir / "config.json").read_text())["seed"]
        loser = next((errors for status, errors in ends if status), "")
        right = sorted(statuses) == [0, 2] and seed == winner and "is in use by" in loser
        table.line(f"two starts at once, two seeds ({number + 1})", max(statuses), loser, right)


def failed_first_start(whole: Path, table: Table) -> None:
    workdir = whole.parent / "fresh"
    shutil.rmtree(workdir, ignore_errors=True)
    process = start(workdir, "demos", "--config.seed=5")
    while process.poll() is None and not (workdir / "config.json").exists():
        time.sleep(0.02)
    process.kill()
    process.communicate()
    status, errors = finish(start(workdir, "demos", "--config.seed=0"))
    table.line("the first start was killed, another seed follows", status, errors, status == 0)


def small_disk(whole: Path, table: Table) -> None:
    """No file may grow beyond LIMIT (or, from the start of metrics on, beyond 100 bytes)."""
    workdir = copied(whole, "copy")
    (workdir / "stages" / "sft.json").unlink()
    shutil.rmtree(workdir / "checkpoints" / "sft")
    status, errors = finish(start(workdir, "sft", limit=LIMIT))
    right = status == 2 and "could not be written (File too large)" in errors
    table.line("no room for a checkpoint", status, errors, right)
    status, errors = finish(start(workdir, "sft", limit=100))
    table.line("no room at all", status, errors, status == 2 and "could not be written" in errors)
    status, errors = finish(start(workdir, "sft"))
    table.line("there is room again", status, errors, status == 0)


def interrupts(whole: Path, table: Table) -> None:
    """Ctrl-C while modules are imported; twice within a step."""
    for seconds in (0.5, 1.0, 2.0):
        process = start(whole, "report")
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        status, errors = finish(process)
        right = status in (130, 75)  # 75 once it runs
        table.line(f"Ctrl-C after {seconds} s", status, errors, right)
    workdir = copied(whole, "copy")
    (workdir / "stages" / "demos.json").unlink()
    process = start(workdir, "demos")
    assert process.stderr is not None
    while process.poll() is None and "workdir" not in process.stderr.readline():
        pass
    time.sleep(1)  # until the stage, which only stops at its end, has begun
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    status, errors = finish(process)
    right = status == 130 and time.monotonic() - started < 5
    table.line("Ctrl-C twice", status, errors, right)


def processor_minutes() -> float:
    """Of this process and those that it has started."""
    used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used) / 60


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults")
    parser.add_argument("folder", type=Path, help="for the run and its damaged copies")
    folder = parser.parse_args(argv).folder.resolve()
    os.environ["JAX_PLATFORMS"] = "cpu"
    whole, started = folder / "whole", time.monotonic()
    if not (whole / "report" / "index.html").exists():
        stages = "demos,sft,collect,autoencoder,world_model,reward,gates,improve,gates_after"
        status, errors = finish(start(whole, f"{stages},evaluate,report"), seconds=3600)
        if status:
            sys.exit(errors)
    table = Table()
    for inject in (
        damaged_files,
        flipped_bits,
        two_starts,
        failed_first_start,
        small_disk,
        interrupts,
    ):
        inject(whole, table)
    minutes = (time.monotonic() - started) / 60
    print(f"\n{table.lines} faults in {minutes:.0f} minutes, {processor_minutes():.0f} of a core")
    return 1 if table.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
