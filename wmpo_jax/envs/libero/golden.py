"""Is this LIBERO the one that results are compared with? Stored episodes of upstream's answer.

    python -m wmpo_jax.envs.libero.golden                          # all suites
    python -m wmpo_jax.envs.libero.golden --suites libero_goal     # some, with a table

golden.json was made under the versions that upstream recommends, without our simulator
(tests/golden/record_libero.py). What it finds where a checkpoint that is known to be good scores
nothing is usually one of: darker colors or other contacts of a newer MuJoCo, a picture that is not
turned, other files of the benchmark, the gripper's sign.
"""

from wmpo_jax.runtime import interrupts

if __name__ == "__main__":  # before anything heavy is imported
    interrupts.exit_at_once()

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

import numpy as np

from wmpo_jax.envs.libero.benchmark import HORIZONS, make_protocol
from wmpo_jax.envs.libero.measures import ACTIONS, actions
from wmpo_jax.envs.libero.measures import picture as measure_picture
from wmpo_jax.envs.robosuite import environment
from wmpo_jax.envs.robosuite.benchmark import EvaluationProtocol
from wmpo_jax.envs.robosuite.pool import Start, WorkerPool
from wmpo_jax.runtime.errors import UserError

FILE = resources.files("wmpo_jax.envs.libero").joinpath("golden.json")
# The tasks in which a newer MuJoCo was seen to draw darker and to let a bowl slide: always played.
SENSITIVE = (("libero_object", 0), ("libero_spatial", 5))
LEVELS = 1.0  # of 255, mean of a color over the frame
TILE_LEVELS = 6.0  # of 255, mean over tiles: renderers differ at edges, orientations everywhere
DETAIL = 0.25  # relative
METERS = 2e-3
DEGREES = 3.0
CONTROL_SECONDS = 0.05

Finding = tuple[str, str]  # kind, what is found


def load() -> dict[str, Any]:
    """Upstream's `packages` and `episodes`."""
    return json.loads(FILE.read_text())


def play(
    protocol: EvaluationProtocol, episodes: Sequence[dict[str, Any]], workers: int
) -> list[dict[str, Any]]:
    """The same episodes of one suite here and now.

    Each worker has one episode at a time: where things are is read as the last step left it.
    """
    size, found = min(workers, len(episodes)), []
    pool = WorkerPool(protocol, size)
    try:
        for first in range(0, len(episodes), size):
            found += _wave(pool, episodes[first : first + size])
    finally:
        pool.close()
    return found


def _wave(pool: WorkerPool, episodes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    frames = pool.reset([Start(row["task"], row["init"], 0) for row in episodes])
    sources, settled = pool.ask("sources"), pool.ask("situation")
    pool.step(np.stack([actions()] * len(episodes)), "none")
    afterwards = pool.ask("situation")
    return [
        {name: row[name] for name in ("suite", "task", "init")}
        | {"origins": files, "picture": measure_picture(frame)}
        | {"settled": before, "afterwards": after}
        for row, frame, files, before, after in zip(
            episodes, frames, sources, settled, afterwards, strict=True
        )
    ]


def differences(found: dict[str, Any], stored: dict[str, Any]) -> list[Finding]:
    """What is not as upstream has it in one episode, the likeliest cause first."""
    files = [
        ("files", f"its {name} is not upstream's (another version of the benchmark)")
        for name, checksum in stored["origins"].items()
        if found["origins"][name] != checksum
    ]
    steps = (found["settled"]["time"] - stored["settled"]["time"]) / CONTROL_SECONDS
    if abs(steps) > 0.5:
        files.append(("time", f"the first observation is {steps:+.0f} settle steps off"))
    fingers = np.array(found["afterwards"]["fingers"]) - stored["afterwards"]["fingers"]
    if not np.abs(fingers).max() <= METERS:
        error = 1e3 * np.abs(fingers).max()
        files.append(("gripper", f"the fingers are {error:.0f} mm off (is the gripper's sign?)"))
    return (
        files
        + _picture_differences(found["picture"], stored["picture"])
        + _place_differences(found["settled"], stored["settled"], "after the settle steps")
        + _place_differences(found["afterwards"], stored["afterwards"], "after the actions")
    )


def _picture_differences(found: dict[str, Any], stored: dict[str, Any]) -> list[Finding]:
    if found["size"] != stored["size"]:
        return [("size", f"frames are {found['size']} pixels, not {stored['size']}")]
    findings = []
    levels = np.array(found["levels"]) - stored["levels"]
    worst = float(levels[np.abs(levels).argmax()])
    if abs(worst) > LEVELS:
        brighter = "brighter" if worst > 0 else "darker"
        findings.append(("colors", f"the first frame is {abs(worst):.1f} levels {brighter}"))
    here, there = np.array(found["tiles"]), np.array(stored["tiles"])
    error = np.abs(here - there).mean()
    if error > TILE_LEVELS:
        turns = {
            "turned by 180 degrees": here[::-1, ::-1],
            "upside down": here[::-1],
            "mirrored": here[:, ::-1],
        }
        best = min(turns, key=lambda name: np.abs(turns[name] - there).mean())
        turned = np.abs(turns[best] - there).mean() < error / 3
        findings.append(
            ("orientation", f"the picture is {best}")
            if turned
            else ("picture", f"the picture differs by {error:.0f} levels")
        )
    detail = found["detail"] / stored["detail"] - 1.0
    if abs(detail) > DETAIL:
        findings.append(("detail", f"the picture is {detail:+.0%} as sharp (another resolution?)"))
    return findings


def _place_differences(found: dict[str, Any], stored: dict[str, Any], when: str) -> list[Finding]:
    if found["things"].keys() != stored["things"].keys():
        names = ", ".join(sorted(found["things"].keys() ^ stored["things"].keys()))
        return [("things", f"not in both scenes: {names}")]
    places = {"hand": (found["hand"], stored["hand"])}
    places |= {name: (here, stored["things"][name]) for name, here in found["things"].items()}
    findings = []
    for name, (here, there) in places.items():
        meters = np.linalg.norm(np.array(here[:3]) - there[:3])
        degrees = _angle(np.array(here[3:]), np.array(there[3:])) if len(here) > 3 else 0.0
        if not (meters <= METERS and degrees <= DEGREES):
            words = f"{name} is {1e3 * meters:.1f} mm and {degrees:.0f} degrees off {when}"
            findings.append((f"places {when}", words))
    return findings


def _angle(one: np.ndarray, other: np.ndarray) -> float:
    """Degrees between two unit quaternions."""
    return float(np.degrees(2 * np.arccos(np.clip(abs(one @ other), 0.0, 1.0))))


def check(protocol: EvaluationProtocol, workers: int) -> None:
    """Raises UserError when episodes set up as in `protocol` are not upstream's.

    Plays the stored episodes of the protocol's suite and of the most sensitive tasks.
    """
    stored = load()["episodes"]
    wanted = [
        row
        for row in stored
        if row["suite"] == protocol.suite or (row["suite"], row["task"]) in SENSITIVE
    ]
    _refuse(protocol, list(pairs(protocol, wanted, workers)))


def pairs(
    protocol: EvaluationProtocol, wanted: Sequence[dict[str, Any]], workers: int
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Episodes as found here, and as stored; suite by suite, set up as in `protocol`."""
    for suite in dict.fromkeys(row["suite"] for row in wanted):
        rows = [row for row in wanted if row["suite"] == suite]
        size = rows[0]["picture"]["size"][0]
        setup = dataclasses.replace(protocol, suite=suite, image_size=size, horizon=ACTIONS)
        yield from zip(play(setup, rows, workers), rows, strict=True)


def _refuse(
    protocol: EvaluationProtocol, played: Sequence[tuple[dict[str, Any], dict[str, Any]]]
) -> None:
    """Raises UserError with a clause for each kind of difference, then the versions."""
    findings: dict[str, list[str]] = {}
    for here, there in played:
        for kind, words in differences(here, there):
            findings.setdefault(kind, []).append(f"{there['suite']} task {there['task']}: {words}")
    if not findings:
        return
    clauses = [
        words[0] + (f" (and {len(words) - 1} more like it)" if len(words) > 1 else "")
        for words in findings.values()
    ]
    here = environment.versions(protocol.packages)
    clauses += [
        f"{name} is {here[name]}, upstream's {version}"
        for name, version in load()["packages"].items()
        if here[name] != version
    ]
    raise UserError(
        f"LIBERO is not what results are compared with: {'; '.join(clauses)}; no success rate is "
        "reported until python -m wmpo_jax.envs.libero.golden agrees "
        f"({environment.set_up_command()} installs upstream's versions)."
    )


def _row(here: dict[str, Any], there: dict[str, Any]) -> str:
    """Markdown: how far an episode is from upstream's."""
    tiles = np.abs(np.array(here["picture"]["tiles"]) - there["picture"]["tiles"]).mean()
    settled, moved = (_farthest(here[when], there[when]) for when in ("settled", "afterwards"))
    level, upstream = (np.mean(row["picture"]["levels"]) for row in (here, there))
    return (
        f"| {there['suite']} | {there['task']} | {there['init']} | {level:.2f} | {upstream:.2f} "
        f"| {tiles:.2f} | {settled:.2f} | {moved:.2f} |"
    )


def _farthest(here: dict[str, Any], there: dict[str, Any]) -> float:
    """Largest distance of a thing or the hand from where upstream has it, millimeters."""
    places = [(here["hand"], there["hand"])]
    places += [(here["things"][name], place) for name, place in there["things"].items()]
    return 1e3 * max(float(np.linalg.norm(np.subtract(a[:3], b[:3]))) for a, b in places)


def main(argv: Sequence[str]) -> int:
    """Prints the table; returns the exit status: 0 equal, 1 not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suites", nargs="*", default=list(HORIZONS), choices=list(HORIZONS))
    parser.add_argument("--workers", type=int, default=1)
    flags = parser.parse_args(argv)
    interrupts.raise_from_now_on()
    protocol = make_protocol(flags.suites[0] if flags.suites else "libero_spatial")
    wanted = [row for row in load()["episodes"] if row["suite"] in flags.suites]
    print(
        "| suite | task | state | frame, mean level | upstream | tiles | settled, mm | moved, mm |"
    )
    print("|---|---|---|---|---|---|---|---|", flush=True)
    played = []
    try:
        for here, there in pairs(protocol, wanted, flags.workers):
            print(_row(here, there), flush=True)
            played.append((here, there))
        _refuse(protocol, played)
    except UserError as error:
        print(f"wmpo_jax: {error}", file=sys.stderr)
        return 1
    print("LIBERO does here what it does under upstream's versions")
    return 0


if __name__ == "__main__":
    sys.exit(interrupts.run(main))
