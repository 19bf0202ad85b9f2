"""A run's policy in its environment twice: in one program, and served to openpi's own client.

    python -m benchmarks.served_policy --workdir=runs/tiny --python=PYTHON

PYTHON is of an environment with openpi-client, which `python -m tests.serving.openpi` makes. Same
held-out starts, greedy. Prints both rates, the paired difference and how far actions differ.
"""

import argparse
import io
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from wmpo_jax.runtime import environment

environment.prepare()

import jax  # noqa: E402  # reads what `prepare` has set
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from wmpo_jax.algorithm.rollout import rollout  # noqa: E402
from wmpo_jax.assembly.opened import open_run  # noqa: E402
from wmpo_jax.assembly.real import RealDynamics  # noqa: E402
from wmpo_jax.assembly.seeds import seed_range  # noqa: E402
from wmpo_jax.assembly.trained import TrainedRun  # noqa: E402
from wmpo_jax.envs.dynamics import MjxDynamics  # noqa: E402
from wmpo_jax.report.intervals import paired_difference  # noqa: E402
from wmpo_jax.runtime.paths import resolve  # noqa: E402
from wmpo_jax.serving import policies, server  # noqa: E402

Episodes = tuple[np.ndarray, np.ndarray]  # actions_BNKA in the robot's units, success_B


def in_process(run: TrainedRun, stage: str, seeds_B: np.ndarray) -> Episodes:
    """The compiled rollout that stage evaluate plays."""
    env: Any = run.task
    dynamics = RealDynamics(env, run.statistics)

    @jax.jit
    def play(params: Any, seeds_B: jax.Array) -> Any:
        acting = run.policy.acting(params, 1.0, greedy=True)
        return rollout(acting, dynamics, seeds_B, jax.random.key(0), env.horizon // env.chunk)

    played = play(run.policy_params(stage), jnp.asarray(seeds_B))
    actions = jax.jit(run.statistics.unnormalize)(played.actions_BNKA)
    return np.asarray(actions, np.float32), np.asarray(played.success_B)


def through_client(run: TrainedRun, client: subprocess.Popen, seeds_B: np.ndarray) -> Episodes:
    """The same chunks, each asked of the server."""
    env: Any = run.task
    dynamics = MjxDynamics(env)
    reset = jax.jit(lambda seeds: dynamics.reset(seeds, jax.random.key(0)))
    step = jax.jit(lambda state, actions: dynamics.step(state, actions, jax.random.key(0)))
    state, seen = reset(jnp.asarray(seeds_B))
    chunks, success_B = [], np.zeros(len(seeds_B), bool)
    for _ in range(env.horizon // env.chunk):
        actions_BKA = _ask(client, env.instructions[0], np.asarray(seen.frame_BHWC))
        state, seen, outcome = step(state, jnp.asarray(actions_BKA))
        success_B |= np.asarray(outcome.success_BK).any(axis=1) & ~np.asarray(outcome.invalid_B)
        chunks.append(actions_BKA)
    return np.stack(chunks, axis=1), success_B


def _ask(client: subprocess.Popen, prompt: str, frames_BHWC: np.ndarray) -> np.ndarray:
    assert client.stdin is not None and client.stdout is not None
    packed = io.BytesIO()
    np.save(packed, frames_BHWC)
    asked = json.dumps({"prompt": prompt, "size": packed.tell()}).encode()
    client.stdin.write(asked + b"\n" + packed.getvalue())
    client.stdin.flush()
    size = json.loads(client.stdout.readline())["size"]
    return np.load(io.BytesIO(client.stdout.read(size)))


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--python", required=True, help="of an environment with openpi-client")
    parser.add_argument("--stage", default="improve", choices=("sft", "improve"))
    parser.add_argument("--episodes", type=int, default=256)
    parser.add_argument("--clients", type=int, default=8)
    flags = parser.parse_args()
    run = open_run(resolve(flags.workdir))
    seeds_B = seed_range("evaluation", run.config.seed, 0, flags.episodes)
    expected = in_process(run, flags.stage, seeds_B)
    taken = server.claimed("127.0.0.1", 0)
    served = server.PolicyServer(policies.RunPolicy(run, flags.stage, "run"), flags.clients)
    served.warm_up()
    threading.Thread(target=server.serve_forever, args=(served, taken), daemon=True).start()
    child = str(Path(__file__).with_name("openpi_infer.py"))
    address = ["127.0.0.1", str(taken.getsockname()[1]), str(flags.clients)]
    time.sleep(1)  # until the thread listens
    with subprocess.Popen(
        [str(Path(flags.python).expanduser()), child, *address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as client:
        assert client.stdin is not None and client.stdout is not None
        print(client.stdout.readline().decode().strip(), file=sys.stderr)
        started = time.monotonic()
        found = through_client(run, client, seeds_B)
        seconds = time.monotonic() - started
        client.stdin.close()
    report(expected, found, seconds)


def report(expected: Episodes, found: Episodes, seconds: float) -> None:
    """Prints what was seen."""
    (ours, solved), (theirs, solved_there) = expected, found
    difference = paired_difference(solved, solved_there)
    equal_B = (ours == theirs).all(axis=(1, 2, 3))
    print(
        f"in process {solved.mean():.4f}, served {solved_there.mean():.4f} of {len(solved)}; "
        f"paired {difference.estimate:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]; "
        f"outcomes equal in {int((solved == solved_there).sum())}, all actions bitwise equal in "
        f"{int(equal_B.sum())}, largest difference {np.abs(ours - theirs).max():.2e}; "
        f"{ours.shape[0] * ours.shape[1] / seconds:.0f} chunks per second"
    )


if __name__ == "__main__":
    main()
