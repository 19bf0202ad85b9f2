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
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from wmpo_jax.algorithm.rollout import rollout
    from wmpo_jax.data.statistics import ActionStatistics
    from wmpo_jax.envs.dynamics import MjxDynamics
    from wmpo_jax.models.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
    from wmpo_jax.runtime import mesh
    from wmpo_jax.runtime.files import save_json
    from wmpo_jax.runtime.workdir import Workdir
    from wmpo_jax.stages import agents, grpo_loop, improve, training
    from wmpo_jax.stages.setting import Setting

    setting = Setting(config, Workdir(folder, config), mesh.make_mesh(config))
    env = setting.env
    flat = jnp.linspace(-1, 1, 101)[:, None] * jnp.ones(env.action_dim)
    save_json(setting.statistics_file, ActionStatistics.from_actions(flat).to_json())
    family = agents.policy_family(config, env)
    _, params = training.create(setting.mesh, family.build)
    key = jax.random.key(0)

    def untrained(network):
        graphdef, params = nnx.split(network)
        return params, graphdef

    video = agents.LatentVideo(
        *untrained(AutoencoderKL(AutoencoderKLConfig.tiny(), rngs=nnx.Rngs(0)))
    )
    section = config.world_model
    world_model = agents.VideoWorldModel(
        *untrained(agents.world_model_network(config, env))[:1],
        video,
        untrained(agents.world_model_network(config, env))[1],
        section.history,
        section.sampling_steps,
        env.image_size,
    )
    judge = agents.VideoJudge(*untrained(agents.reward_network(config, env)), config.reward.window)
    world = (world_model, judge, jnp.float32(0.5))

    recipe = grpo_loop.Recipe.from_config(setting)
    seeds = jnp.arange(batch)
    real = MjxDynamics(env)
    state, first = jax.jit(real.reset)(seeds, key)
    actions = jax.random.uniform(key, (batch, env.horizon, env.action_dim), minval=-1.0)

    @jax.jit
    def blind(state, actions):
        def one(state, action):
            return jax.vmap(env.step)(state, action), None

        return jax.lax.scan(one, state, actions.swapaxes(0, 1))[0]

    @jax.jit
    def seeing(state, actions):
        return real.step(state, actions, key)[2].frames_BKHWC

    @jax.jit
    def imagine(params, world, first, key):
        dream = improve.imagined(setting, *world)
        policy = family.policy(params, recipe.temperature)
        return rollout(policy, dream, first, key, setting.num_chunks)

    dream = imagine(params, world, first, key)
    episodes = recipe.groups * recipe.group_size
    chosen = jax.tree.map(lambda leaf: jnp.resize(leaf, (episodes, *leaf.shape[1:])), dream)
    chosen = chosen.replace(success_B=jnp.arange(episodes) % 2 == 0)
    update = jax.jit(grpo_loop.make_update(family, recipe, setting.mesh))
    optimizer_state = recipe.optimizer().init(params)

    steps = batch * env.horizon
    blind_rate = steps / fastest(blind, state, actions)
    seeing_rate = steps / fastest(seeing, state, actions)
    dream_rate = steps / fastest(imagine, params, world, first, key)
    seconds = fastest(update, params, optimizer_state, chosen, jnp.ones(episodes), key)
    print(f"{mesh.describe(setting.mesh)}; task {env.name}, {env.image_size} px, {batch} worlds")
    print(f"MJX, no pixels         {blind_rate:10.0f} control steps/s")
    print(f"MJX with pixels        {seeing_rate:10.0f} control steps/s")
    print(f"imagined, with policy  {dream_rate:10.0f} control steps/s")
    print(f"imagined / real pixels {dream_rate / seeing_rate:10.3f}")
    print(
        f"GRPO update            {seconds:10.2f} s for {episodes} episodes x {recipe.epochs} epochs"
    )


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
