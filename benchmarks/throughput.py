"""How fast reality, imagination and the update are on this machine.

    python benchmarks/throughput.py --config=configs/tiny.py

Prints control steps per second of MJX without and with pixels, imagined control steps per second,
seconds of one GRPO update, and the ratio imagined / real of this very run. Networks are untrained:
their speed does not depend on their weights. Compilation is not counted.
"""

import argparse
import time

from wmpo_jax.runtime import environment
from wmpo_jax.runtime.config import load_config

REPEATS = 5


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="configs/tiny.py")
    parser.add_argument("--batch", type=int, default=256, help="worlds at once")
    flags = parser.parse_args()
    config = load_config(flags.config)
    environment.prepare(config.cpu_devices)
    measure(config, flags.batch)


def measure(config, batch: int) -> None:
    """Prints everything, one line each."""
    from wmpo_jax.assembly import agents
    from wmpo_jax.assembly.environment import make_task
    from wmpo_jax.runtime import mesh
    from wmpo_jax.training.state import create

    devices, env = mesh.make_mesh(config), make_task(config)
    print(f"{mesh.describe(devices)}; task {env.name}, {env.image_size} px, {batch} worlds")
    blind, seeing, first = reality(env, batch)
    print(f"MJX, no pixels         {batch * env.horizon / blind:10.0f} control steps/s")
    print(f"MJX with pixels        {batch * env.horizon / seeing:10.0f} control steps/s")
    policy = agents.policy(config, env)
    params = create(devices, policy.build)[1]
    imagining, episodes = imagination(config, env, devices, policy, params, first)
    print(f"imagined, with policy  {batch * env.horizon / imagining:10.0f} control steps/s")
    print(f"imagined / real pixels {seeing / imagining:10.3f}")
    seconds, count, epochs = update(config, devices, policy, params, episodes)
    print(f"GRPO update            {seconds:10.2f} s for {count} episodes x {epochs} epochs")


def reality(env, batch: int):
    """(seconds of an episode of all worlds without pixels, with them, its first observation)."""
    import jax
    import jax.numpy as jnp

    from wmpo_jax.envs.dynamics import MjxDynamics

    key, real = jax.random.key(0), MjxDynamics(env)
    state, first = jax.jit(real.reset)(jnp.arange(batch), key)
    actions = jax.random.uniform(key, (batch, env.horizon, env.action_dim), minval=-1.0)

    @jax.jit
    def blind(state, actions):
        def one(state, action):
            return jax.vmap(env.step)(state, action), None

        return jax.lax.scan(one, state, actions.swapaxes(0, 1))[0]

    @jax.jit
    def seeing(state, actions):
        return real.step(state, actions, key)[2].frames_BKHWC

    return fastest(blind, state, actions), fastest(seeing, state, actions), first


def untrained_parts(config, env, mesh):
    """World model, reward model and its threshold, none of which has learned anything."""
    import jax.numpy as jnp

    from wmpo_jax.assembly import agents
    from wmpo_jax.training.state import create

    frames = create(mesh, lambda: agents.autoencoder_network(config))[1]
    world = create(mesh, lambda: agents.world_model_network(config, env))[1]
    reward = create(mesh, lambda: agents.reward_network(config, env))[1]
    model = agents.world_model(config, env, world, agents.autoencoder(config, 1.0, frames))
    return model, agents.reward_model(config, env, reward), jnp.float32(0.5)


def imagination(config, env, mesh, policy, params, first):
    """(seconds of an imagined episode of all worlds, the episodes)."""
    import jax

    from wmpo_jax.assembly.trained import imagined_sampler

    chunks, min_step = env.horizon // env.chunk, config.reward.min_step
    imagine = imagined_sampler(mesh, policy, config.policy.temperature, min_step, chunks)
    arguments = (params, untrained_parts(config, env, mesh), first, jax.random.key(0))
    return fastest(imagine, *arguments), imagine(*arguments)


def update(config, mesh, policy, params, episodes):
    """(seconds of one GRPO update, episodes in it, epochs)."""
    import jax
    import jax.numpy as jnp

    from wmpo_jax.assembly.agents import grpo_config
    from wmpo_jax.training import grpo

    settings = grpo_config(config)
    count = settings.episodes
    chosen = jax.tree.map(lambda leaf: jnp.resize(leaf, (count, *leaf.shape[1:])), episodes)
    chosen = chosen.replace(success_B=jnp.arange(count) % 2 == 0)
    one = jax.jit(grpo.make_update(policy, settings, mesh))
    arguments = (settings.optimizer().init(params), chosen, jnp.ones(count), jax.random.key(0))
    return fastest(one, params, *arguments), count, settings.epochs


def fastest(function, *arguments) -> float:
    """Seconds of the fastest of several runs, after one that compiles."""
    import jax

    jax.block_until_ready(function(*arguments))
    best = float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        best = min(best, time.perf_counter() - started)
    return best


if __name__ == "__main__":
    main()
