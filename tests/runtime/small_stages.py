"""`main` with stages of seconds instead of the real ones, for tests with several processes.

    python -m tests.runtime.small_stages --config=... --workdir=... --stages=memory,stream

memory and stream are `training.fit.fit` with data in memory and on disk, reinforce is GRPO in an
environment of one decision, simulate plays a simulator on the host, idle never ends; slow and
impatient are no stages but make the others so.
"""

import os
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tests.assembly.test_real import STARTS, STATISTICS, Steady
from tests.stages.fake_host import Lifts
from tests.training.test_grpo import BUTTONS, GROUP, Buttons, Table, grpo_config
from wmpo_jax import main as program
from wmpo_jax import stages
from wmpo_jax.algorithm.rollout import rollout_groups
from wmpo_jax.data.loading import WindowSpec
from wmpo_jax.runtime import sharding, watch
from wmpo_jax.runtime.files import save_arrays
from wmpo_jax.runtime.mesh import spread_if_even
from wmpo_jax.runtime.workdir import Workdir
from wmpo_jax.stages.context import RunContext
from wmpo_jax.training import grpo, step
from wmpo_jax.training.fit import fit as train
from wmpo_jax.training.state import initial_state, spread

STEPS = 30
BATCH = 8


def run_all(config: ConfigDict, workdir: Workdir, mesh: Mesh, names: list[str]) -> None:
    """In place of `stages.run_all`."""
    context = RunContext(config, workdir, mesh)
    seconds = 0.2 if "slow" in names else 0.0
    if "impatient" in names:
        watch.SILENCE_SECONDS, watch.BEAT_SECONDS = 4, 1
    if "memory" in names:
        fit(context, "memory", in_memory(), seconds)
    if "stream" in names:
        spec = WindowSpec(1, 4, future=False)
        fit(context, "stream", context.stream("stream", spec, BATCH, clip=True), seconds)
    if "reinforce" in names:
        reinforce(context)
    if "simulate" in names:
        simulate(context)
    if "idle" in names:
        (workdir.path / f"idle_{jax.process_index()}").touch()
        while True:
            time.sleep(0.1)


def fit(context: RunContext, name: str, data: Any, seconds: float) -> None:
    """Two layers from frames (or 96 numbers) to 7 actions."""
    draw = np.random.default_rng(0).normal
    kernels = {"fc1": draw(size=(96, 16)) / 10, "fc2": draw(size=(16, 7)) / 4}
    params = {layer: {"kernel": np.float32(kernel)} for layer, kernel in kernels.items()}

    def loss(params: Any, data: Any, key: jax.Array, now: jax.Array) -> Any:
        if isinstance(data, step.Batch):
            frames = data.rows["frames_BTHWC"].astype(jnp.float32)
            x, y = frames.mean(axis=(1, 2)).reshape(BATCH, 96) / 255, data.rows["actions_BKA"][:, 0]
        else:
            rows = jax.random.randint(key, (BATCH,), 0, len(data["x"]))
            x, y = spread(context.mesh, (data["x"][rows], data["y"][rows]))
        noise = 0.1 * jax.random.normal(key, y.shape)
        error = jnp.tanh(x @ params["fc1"]["kernel"]) @ params["fc2"]["kernel"] - y - noise
        return jnp.square(error).mean(), {}

    optimizer = optax.adam(1e-2)
    step_fn = step.make_step(context.mesh, loss, optimizer, context.key(name))

    def paced(state: Any, data: Any, frozen: Any) -> Any:
        time.sleep(seconds)
        return step_fn(state, data, frozen)

    state = initial_state(context.mesh, params, optimizer)
    train(context.loop_files(name), context.mesh, state, paced, data, STEPS, 5)


def reinforce(context: RunContext) -> None:
    policy: Any = Table()
    world = Buttons()
    sample = sharding.compiled(
        context.mesh,
        lambda params, seen, key: rollout_groups(policy.acting(params), world, seen, key, 1, GROUP),
    )

    def starts(first: int, count: int) -> jax.Array:
        return spread_if_even(context.mesh, (first + np.arange(count)) % BUTTONS)

    params = jnp.zeros((BUTTONS + 1, BUTTONS))
    grpo.optimize(
        context.loop_files("reinforce"),
        context.mesh,
        params,
        policy,
        sample,
        starts,
        grpo_config(iterations=4),
        context.key("reinforce"),
    )


def simulate(context: RunContext) -> None:
    env: Any = Lifts()
    vars(context).update(env=env)
    policy: Any = Steady()
    played = context.real.player(policy, 1.0, STATISTICS)(0.25, STARTS, jax.random.key(0))
    seen = context.real.first_frames()(STARTS)
    arrays = {**vars(played), "first_BHWC": seen.frame_BHWC}
    save_arrays(context.workdir.data("simulate") / "episodes.npz", arrays)
    context.workdir.mark_done("simulate", {"waves": env.waves})


def in_memory() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(1).normal
    return {
        name: draw(size=(32, width)).astype(np.float32) for name, width in (("x", 96), ("y", 7))
    }


if __name__ == "__main__":
    stages.run_all = run_all
    stages.check = lambda config, names: None  # it does not know these stages
    sys.exit(program.main([*sys.argv[1:], *os.environ.get("MORE_FLAGS", "").split()]))
