"""Control steps per second of real LIBERO: called directly, and through the worker pool.

    python benchmarks/libero_pool.py [--workers=2] [--steps=16]

Direct is one environment in one process that renders agentview at every step, or never. The pool
plays as many episodes as it has workers, in chunks of 8, and renders every frame or the last of a
chunk, which is all that a policy reads. Building environments is not counted.
"""

import argparse
import os
import subprocess
import time
from collections.abc import Callable

import numpy as np

SUITE, TASK, SIZE, CHUNK = "libero_spatial", 0, 256, 8


def direct(steps: int) -> None:
    """Prints both rates of plain LIBERO; runs in a process with a renderer in its environment."""
    from wmpo_jax.envs.libero.benchmark import bddl_file, import_libero

    for name, cameras in (("every frame", ["agentview"]), ("no frame", [])):
        env = import_libero("libero.libero.envs").OffScreenRenderEnv(
            bddl_file_name=str(bddl_file(SUITE, TASK)),
            camera_names=cameras or "agentview",
            camera_heights=SIZE,
            camera_widths=SIZE,
            use_camera_obs=bool(cameras),
        )
        env.reset()
        action = np.append(np.zeros(6), -1.0)
        env.step(action)
        seconds = timed(lambda env=env, action=action: [env.step(action) for _ in range(steps)])
        print(f"direct, {name}: {steps / seconds:.1f} steps/s", flush=True)
        env.close()


def pooled(workers: int, steps: int) -> None:
    """Prints both rates of the pool."""
    from wmpo_jax.envs.libero.benchmark import make_protocol
    from wmpo_jax.envs.robosuite.pool import Start, WorkerPool

    pool = WorkerPool(make_protocol(SUITE, image_size=SIZE), workers)
    still = np.zeros((workers, CHUNK, 7)) + np.eye(7)[6]
    for name, draw in (("every frame", "all"), ("last frame of a chunk", "last")):
        pool.reset([Start(TASK, slot, 0) for slot in range(workers)])
        pool.step(still, draw)
        seconds = timed(
            lambda draw=draw: [pool.step(still, draw) for _ in range(max(steps // CHUNK, 1))]
        )
        rate = workers * max(steps // CHUNK, 1) * CHUNK / seconds
        print(f"pool of {workers} ({pool.renderer}), {name}: {rate:.1f} steps/s", flush=True)
    pool.close()


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--direct", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.direct:
        direct(flags.steps)
        return
    from wmpo_jax.envs.robosuite import environment

    command = environment.command("benchmarks.libero_pool", "--direct", f"--steps={flags.steps}")
    variables = environment.variables(os.environ.get("MUJOCO_GL", "egl"))
    subprocess.run(command, env=variables, check=True)
    pooled(flags.workers, flags.steps)


if __name__ == "__main__":
    main()
