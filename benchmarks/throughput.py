"""How fast reality, imagination and the update are on this machine.

    python benchmarks/throughput.py --config=configs/tiny.py

Prints control steps per second of MJX without and with pixels, imagined control steps per second,
seconds of one GRPO update, and the ratio imagined / real of this very run. Networks are untrained:
their speed does not depend on their weights. Compilation is not counted.
"""

import argparse
import tempfile
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
    with tempfile.TemporaryDirectory() as folder:
        measure(config, folder, flags.batch)


def measure(config, folder: str, batch: int) -> None:
    """Prints everything, one line each."""
    from wmpo_jax.stages.setting import Setting

    from wmpo_jax.runtime import mesh
    from wmpo_jax.runtime.workdir import Workdir

    setting = Setting(config, Workdir(folder, config), mesh.make_mesh(config))
    env = setting.env
    print(f"{mesh.describe(setting.mesh)}; task {env.name}, {env.image_size} px, {batch} worlds")
    blind, seeing, first = reality(env, batch)
    print(f"MJX, no pixels         {batch * env.horizon / blind:10.0f} control steps/s")
    print(f"MJX with pixels        {batch * env.horizon / seeing:10.0f} control steps/s")
    family, params = policy(setting)
    dreaming, dream = imagination(setting, family, params, first)
    print(f"imagined, with policy  {batch * env.horizon / dreaming:10.0f} control steps/s")
    print(f"imagined / real pixels {seeing / dreaming:10.3f}")
    seconds, episodes, epochs = update(setting, family, params, dream)
    print(f"GRPO update            {seconds:10.2f} s for {episodes} episodes x {epochs} epochs")


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


def policy(setting):
    """An untrained policy: (family, parameters)."""
    import jax.numpy as jnp

    from wmpo_jax.data.statistics import ActionStatistics
    from wmpo_jax.runtime.files import save_json
    from wmpo_jax.stages import agents, training

    flat = jnp.linspace(-1, 1, 101)[:, None] * jnp.ones(setting.env.action_dim)
    save_json(setting.statistics_file, ActionStatistics.from_actions(flat).to_json())
    family = agents.policy_family(setting.config, setting.env)
    return family, training.create(setting.mesh, family.build)[1]


def untrained_world(setting):
    """World model, reward model and its threshold, none of which has learned anything."""
    import jax.numpy as jnp
    from flax import nnx

    from wmpo_jax.models.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
    from wmpo_jax.stages import agents

    def halves(network):
        graphdef, params = nnx.split(network)
        return params, graphdef

    config, env = setting.config, setting.env
    autoencoder = AutoencoderKL(AutoencoderKLConfig.tiny(), rngs=nnx.Rngs(0))
    params, graphdef = halves(agents.world_model_network(config, env))
    world_model = agents.VideoWorldModel(
        params,
        agents.LatentVideo(*halves(autoencoder)),
        graphdef,
        config.world_model.history,
        config.world_model.sampling_steps,
        env.image_size,
    )
    reward_model = agents.VideoRewardModel(
        *halves(agents.reward_network(config, env)), config.reward.window
    )
    return world_model, reward_model, jnp.float32(0.5)


def imagination(setting, family, params, first):
    """(seconds of an imagined episode of all worlds, the episodes)."""
    import jax

    from wmpo_jax.algorithm.rollout import rollout
    from wmpo_jax.stages import grpo_loop, improve

    recipe = grpo_loop.Recipe.from_config(setting)

    @jax.jit
    def imagine(params, world, first, key):
        dream = improve.imagined(setting, *world)
        actor = family.policy(params, recipe.temperature)
        return rollout(actor, dream, first, key, setting.num_chunks)

    arguments = (params, untrained_world(setting), first, jax.random.key(0))
    return fastest(imagine, *arguments), imagine(*arguments)


def update(setting, family, params, dream):
    """(seconds of one GRPO update, episodes in it, epochs)."""
    import jax
    import jax.numpy as jnp

    from wmpo_jax.stages import grpo_loop

    recipe = grpo_loop.Recipe.from_config(setting)
    episodes = recipe.groups * recipe.group_size
    chosen = jax.tree.map(lambda leaf: jnp.resize(leaf, (episodes, *leaf.shape[1:])), dream)
    chosen = chosen.replace(success_B=jnp.arange(episodes) % 2 == 0)
    one = jax.jit(grpo_loop.make_update(family, recipe, setting.mesh))
    arguments = (recipe.optimizer().init(params), chosen, jnp.ones(episodes), jax.random.key(0))
    return fastest(one, params, *arguments), episodes, recipe.epochs


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
