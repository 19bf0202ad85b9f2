"""`main` with stages of seconds instead of the real ones, for tests with several processes.

    python -m tests.runtime.small_stages --config=... --workdir=... --stages=memory,stream

memory and stream are `training.fit` with data in memory and on disk, reinforce is GRPO in a world
of one decision, simulate plays a simulator on the host, idle does nothing for ever; slow and
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
from wmpo_jax.stages.real import first_frames, make_player
from wmpo_jax.stages.setting import Setting

from tests.stages.fake_host import Lifts
from tests.stages.test_grpo_loop import BUTTONS, GROUP, Buttons, Table, recipe
from tests.stages.test_real import STARTS, STATISTICS, Steady
from wmpo_jax import main as door
from wmpo_jax import stages
from wmpo_jax.algorithm.rollout import rollout
from wmpo_jax.data.loading import WindowSpec
from wmpo_jax.runtime import sharding, watch
from wmpo_jax.runtime.files import save_arrays
from wmpo_jax.runtime.mesh import spread_whole
from wmpo_jax.runtime.workdir import Workdir
from wmpo_jax.stages import grpo_loop, training

STEPS = 30
BATCH = 8


def run_all(config: ConfigDict, workdir: Workdir, mesh: Mesh, names: list[str]) -> None:
    """In place of `stages.run_all`."""
    setting = Setting(config, workdir, mesh)
    seconds = 0.2 if "slow" in names else 0.0
    if "impatient" in names:
        watch.SILENCE_SECONDS, watch.BEAT_SECONDS = 4, 1
    if "memory" in names:
        fit(setting, "memory", in_memory(), seconds)
    if "stream" in names:
        loader = setting.loader("stream", WindowSpec(1, 4, future=False), BATCH, clip=True)
        fit(setting, "stream", training.Stream(loader), seconds)
    if "reinforce" in names:
        reinforce(setting)
    if "simulate" in names:
        simulate(setting)
    if "idle" in names:
        (workdir.path / f"idle_{jax.process_index()}").touch()
        while True:
            time.sleep(0.1)


def fit(setting: Setting, name: str, data: Any, seconds: float) -> None:
    """Two layers from frames (or 96 numbers) to 7 actions."""
    draw = np.random.default_rng(0).normal
    kernels = {"fc1": draw(size=(96, 16)) / 10, "fc2": draw(size=(16, 7)) / 4}
    params = {layer: {"kernel": np.float32(kernel)} for layer, kernel in kernels.items()}

    def loss(params: Any, data: Any, key: jax.Array, step: jax.Array) -> Any:
        if "frames_BTHWC" in data:
            x = data["frames_BTHWC"].astype(jnp.float32).mean(axis=(1, 2)).reshape(BATCH, 96) / 255
            y = data["actions_BKA"][:, 0]
        else:
            rows = jax.random.randint(key, (BATCH,), 0, len(data["x"]))
            x, y = training.spread(setting.mesh, (data["x"][rows], data["y"][rows]))
        noise = 0.1 * jax.random.normal(key, y.shape)
        error = jnp.tanh(x @ params["fc1"]["kernel"]) @ params["fc2"]["kernel"] - y - noise
        return jnp.square(error).mean(), {}

    optimizer = optax.adam(1e-2)
    step = training.make_step(setting.mesh, loss, optimizer, setting.key(name))

    def paced(state: Any, data: Any, frozen: Any) -> Any:
        time.sleep(seconds)
        return step(state, data, frozen)

    state = training.initial_state(setting.mesh, params, optimizer)
    training.fit(name, state, paced, data, STEPS, 5, setting)


def reinforce(setting: Setting) -> None:
    family, world = Table(), Buttons()
    sample = sharding.compiled(
        setting.mesh, lambda params, seen, key: rollout(family.policy(params), world, seen, key, 1)
    )

    def starts(batch: int) -> jax.Array:
        del batch
        return spread_whole(setting.mesh, np.repeat(np.arange(8) % BUTTONS, GROUP))

    params = jnp.zeros((BUTTONS + 1, BUTTONS))
    grpo_loop.optimize("reinforce", params, family, sample, starts, recipe(iterations=4), setting)


def simulate(setting: Setting) -> None:
    env: Any = Lifts()
    vars(setting).update(env=env, statistics=STATISTICS)
    family: Any = Steady()
    played = make_player(setting, family)(0.25, STARTS, jax.random.key(0))
    seen = first_frames(setting)(STARTS)
    arrays = {**vars(played), "first_BHWC": seen.frame_BHWC}
    save_arrays(setting.workdir.data("simulate") / "episodes.npz", arrays)
    setting.workdir.mark_done("simulate", {"waves": env.waves})


def in_memory() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(1).normal
    return {
        name: draw(size=(32, width)).astype(np.float32) for name, width in (("x", 96), ("y", 7))
    }


if __name__ == "__main__":
    stages.run_all = run_all
    stages.check = lambda config, names: None  # it does not know these stages
    sys.exit(door.main([*sys.argv[1:], *os.environ.get("MORE_FLAGS", "").split()]))
