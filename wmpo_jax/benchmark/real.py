"""Control steps per second of MJX, without and with pixels, over the number of worlds."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from wmpo_jax.assembly.environment import make_task
from wmpo_jax.benchmark.measure import Bench
from wmpo_jax.benchmark.timing import Spread, timed
from wmpo_jax.envs.dynamics import MjxDynamics
from wmpo_jax.envs.protocol import Environment, HostEnvironment
from wmpo_jax.runtime import sharding
from wmpo_jax.runtime.mesh import spread_whole

WORLDS = (64, 256)
STEPS = 4  # of the physics that are timed; every step costs the same


def rates(bench: Bench) -> Iterator[dict[str, Any]]:
    """A row per number of worlds, without and with pixels; none where MJX does not simulate."""
    if "networks" in bench.config:
        return
    env = make_task(bench.config)
    if isinstance(env, HostEnvironment):
        return
    for count in WORLDS:
        for name, seconds in _seconds(env, bench, count).items():
            yield {
                "name": name,
                "detail": f"{env.name}, {count} worlds, {env.image_size} px",
                "count": count * STEPS,
                "unit": "control steps",
                "seconds": seconds._asdict(),
                "rate": count * STEPS / seconds.median,
            }


def _seconds(env: Environment, bench: Bench, worlds: int) -> dict[str, Spread]:
    mesh = bench.mesh
    key, world = jax.random.key(0), MjxDynamics(env, mesh)
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
        "MJX, no pixels": timed(lambda: blind(state, actions), bench.repeats, bench.clock),
        "MJX with pixels": timed(lambda: seeing(state, actions), bench.repeats, bench.clock),
    }
