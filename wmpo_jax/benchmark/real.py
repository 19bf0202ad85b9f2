"""Control steps per second of MJX over the number of worlds: tabletop tasks, LIBERO's scenes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from wmpo_jax.assembly.environment import make_task
from wmpo_jax.benchmark.measure import Bench
from wmpo_jax.benchmark.timing import Spread, timed
from wmpo_jax.envs.dynamics import MjxDynamics
from wmpo_jax.envs.libero import truth
from wmpo_jax.envs.libero_mjx import fidelity
from wmpo_jax.envs.protocol import Environment, HostEnvironment
from wmpo_jax.runtime import sharding
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.mesh import spread_whole

WORLDS = {"cpu": (64, 256), "gpu": (256, 1024, 4096), "tpu": (256, 1024, 4096)}
LIBERO_WORLDS = {"cpu": (1, 8), "gpu": (64, 256, 1024), "tpu": (64, 256, 1024)}
STEPS = 4  # of the physics that are timed; every step costs the same


def tabletop(bench: Bench) -> Iterator[dict[str, Any]]:
    """Without and with pixels; no rows where MJX does not simulate the config's task."""
    if "networks" in bench.config:
        return
    env = make_task(bench.config)
    if isinstance(env, HostEnvironment):
        return
    for worlds in WORLDS[jax.devices()[0].platform]:
        for name, seconds in _tabletop_seconds(env, bench, worlds).items():
            yield _row(name, f"{env.name}, {env.image_size} px", worlds, STEPS, seconds)


def libero(bench: Bench, scene: Path) -> Iterator[dict[str, Any]]:
    """LIBERO's physics in MJX, which has no pixels.

    Args:
      scene: a file of `python -m wmpo_jax.envs.libero.truth`, with a start and its actions.

    Raises:
      UserError: no such file.
    """
    if not scene.exists():
        raise UserError(
            f"--scene is {scene}, which is not there: record one by "
            f"`python -m wmpo_jax.envs.libero.truth libero_spatial 0 {scene} --episodes=1`."
        )
    found, (episode, *_) = truth.load(scene)
    physics = fidelity.make_physics(found, episode)
    action_A = jnp.asarray(episode["actions_TA"][0], jnp.float32)
    begin, step = jax.jit(jax.vmap(physics.begin)), jax.jit(jax.vmap(physics.step))
    for worlds in LIBERO_WORLDS[jax.devices()[0].platform]:
        state = begin(fidelity.stacked_starts([episode] * worlds))
        actions = jnp.tile(action_A, (worlds, 1))
        seconds = _timed(bench, lambda state=state, actions=actions: step(state, actions))
        yield _row("LIBERO in MJX, no pixels", scene.stem, worlds, 1, seconds)


def _tabletop_seconds(env: Environment, bench: Bench, worlds: int) -> dict[str, Spread]:
    mesh, key = bench.mesh, jax.random.key(0)
    world = MjxDynamics(env, mesh)
    starts = spread_whole(mesh, jnp.arange(worlds, dtype=jnp.int32))
    state, _ = jax.jit(world.reset)(starts, key)
    actions = jax.random.uniform(key, (worlds, STEPS, env.action_dim), minval=-1.0)
    actions = spread_whole(mesh, actions)

    def blind_rows(state: Any, actions_BKA: jax.Array) -> Any:
        def one(state: Any, action_BA: jax.Array) -> tuple[Any, None]:
            return jax.vmap(env.step)(state, action_BA), None

        return jax.lax.scan(one, state, actions_BKA.swapaxes(0, 1))[0]

    blind = jax.jit(sharding.apart(mesh, blind_rows))
    seeing = jax.jit(lambda state, actions: world.step(state, actions, key)[2].frames_BKHWC)
    return {
        "MJX, no pixels": _timed(bench, lambda: blind(state, actions)),
        "MJX with pixels": _timed(bench, lambda: seeing(state, actions)),
    }


def _timed(bench: Bench, run: Callable[[], Any]) -> Spread:
    return timed(run, bench.repeats, bench.clock)


def _row(name: str, detail: str, worlds: int, steps: int, seconds: Spread) -> dict[str, Any]:
    return {
        "name": name,
        "detail": f"{detail}, {worlds} worlds",
        "count": worlds * steps,
        "unit": "control steps",
        "seconds": seconds._asdict(),
        "rate": worlds * steps / seconds.median,
    }
