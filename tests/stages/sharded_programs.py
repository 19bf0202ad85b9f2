"""Training steps, the imagined rollout and the GRPO update on meshes of 8 devices.

    python -m tests.stages.sharded_programs result.json [2x2x2 ...]

Writes, per program and mesh, how far it ends from the same program on one device.
"""

import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from wmpo_jax.runtime import environment

# The programs run three times at most: compiling them well would take longer than running them.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
environment.prepare(cpu_devices=8)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from flax import nnx  # noqa: E402
from wmpo_jax.stages.setting import Setting  # noqa: E402

from wmpo_jax.algorithm.protocols import Observation  # noqa: E402
from wmpo_jax.algorithm.rollout import rollout  # noqa: E402
from wmpo_jax.models.vla import VLA, VLAConfig  # noqa: E402
from wmpo_jax.runtime import mesh as meshes  # noqa: E402
from wmpo_jax.runtime import sharding  # noqa: E402
from wmpo_jax.runtime.config import load_config  # noqa: E402
from wmpo_jax.runtime.workdir import Workdir  # noqa: E402
from wmpo_jax.stages import (  # noqa: E402
    agents,
    autoencoder,
    grpo_loop,
    improve,
    reward,
    sft,
    training,
    world_model,
)

MESHES = {"8x1x1": (8, 1, 1), "2x2x2": (2, 2, 2), "1x4x2": (1, 4, 2)}
EPISODES, STEPS = 8, 3
ENV: Any = SimpleNamespace(
    action_dim=3, chunk=4, horizon=8, image_size=32, instructions=("press the pad",)
)


def setting_on(shape: tuple[int, int, int], folder: Path) -> Setting:
    config = load_config("configs/tiny.py:smoke")
    for name in ("sft", "autoencoder", "world_model", "reward"):
        config[name].batch_size = 8
    # Adam divides a gradient of rounding errors by itself; a small rate keeps that out of sight.
    for name in ("sft", "autoencoder", "world_model", "reward", "improve"):
        config[name].learning_rate = 1e-4
    config.world_model.update(depth=1, hidden=32)
    devices = jax.devices()[: int(np.prod(shape))]
    setting = Setting(config, Workdir(folder, config), meshes.mesh_of(devices, shape))
    setting.__dict__["env"] = ENV  # instead of a physics that nobody here steps
    return setting


def small_policy(setting: Setting) -> agents.PolicyFamily:
    """Of two scanned layers in each part."""
    tiny = VLAConfig.tiny(ENV.action_dim, ENV.chunk, n_action_classes=setting.config.policy.bins)
    parts = {name: replace(getattr(tiny, name), depth=2) for name in ("dino", "siglip", "llama")}
    vla = replace(tiny, **parts).scanned()
    family = agents.policy_family(setting.config, ENV)

    def build() -> VLA:
        return VLA(vla, rngs=nnx.Rngs(0))

    return replace(family, build=build, graphdef=nnx.graphdef(nnx.eval_shape(build)))


def videos(setting: Setting) -> np.ndarray:
    """uint8 noise, [E, T, H, W, 3]."""
    size, length = setting.env.image_size, setting.env.horizon + 1
    shape = (EPISODES, length, size, size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def actions(setting: Setting, *shape: int) -> np.ndarray:
    full = (*shape, setting.env.action_dim)
    return np.random.default_rng(1).uniform(-1, 1, full).astype(np.float32)


def train(setting, build, loss, optimizer, data, averaged=False, accumulate=1):
    """Parameters after STEPS steps."""
    graphdef, params = training.create(setting.mesh, build)
    step = training.make_step(
        setting.mesh,
        lambda params, data, key, now: loss(graphdef, params, data, key, now),
        optimizer,
        jax.random.key(7),
        ema_decay=0.99,
        accumulate=accumulate,
    )
    state = training.initial_state(setting.mesh, params, optimizer, averaged)
    data = meshes.replicate(setting.mesh, data)
    for _ in range(STEPS):
        state, _ = step(state, data)
    return state.params


def run_sft(setting):
    family = small_policy(setting)
    data = {
        "frame_XHWC": videos(setting)[:, 0],
        "chunk_XKA": actions(setting, EPISODES, setting.env.chunk),
        "instruction_id_X": np.zeros(EPISODES, np.int32),
    }

    def loss(graph, params, data, key, now):
        return sft._loss(family, setting, params, data, key)

    return train(setting, family.build, loss, sft._optimizer(setting), data, accumulate=2)


def run_world_model(setting):
    size = setting.env.image_size // 4
    shape = (EPISODES, setting.env.horizon + 1, size, size, 4)
    corpus = {
        name: {
            "latents_ETHWC": np.random.default_rng(2).normal(size=shape).astype(np.float32),
            "actions_ETA": actions(setting, EPISODES, setting.env.horizon),
        }
        for name in autoencoder.SOURCES
    }

    def loss(graph, *rest):
        return world_model._loss(graph, setting, *rest)

    build = partial(world_model._network, setting)
    return train(setting, build, loss, world_model._optimizer(setting), corpus, averaged=True)


def run_autoencoder(setting):
    data = {name: videos(setting) for name in autoencoder.SOURCES}

    def loss(graph, params, data, key, now):
        return autoencoder._loss(graph, setting, params, data, key)

    build = partial(autoencoder._network, setting, 1.0)
    return train(setting, build, loss, autoencoder._optimizer(setting), data)


def run_reward(setting):
    data = {f"{source}_ETHWC": videos(setting) for source in reward.SOURCES}
    data["success_E"] = np.arange(EPISODES) % 2 == 0
    data["finish_step_E"] = np.full(EPISODES, 3, np.int32)
    data["instruction_id_E"] = np.zeros(EPISODES, np.int32)

    def loss(graph, params, data, key, now):
        return reward._loss(graph, setting, params, data, key)

    build = partial(reward._network, setting)
    return train(setting, build, loss, reward._optimizer(setting), data)


def run_imagination(setting):
    """(policy parameters, imagined trajectory)."""
    family = small_policy(setting)
    _, params = training.create(setting.mesh, family.build)
    graph, world = training.create(setting.mesh, lambda: world_model._network(setting))
    video_graph, video = training.create(setting.mesh, lambda: autoencoder._network(setting, 1.0))
    reward_graphdef, reward_model = training.create(setting.mesh, lambda: reward._network(setting))
    section = setting.config.world_model
    frozen = meshes.replicate(
        setting.mesh,
        (
            agents.VideoWorldModel(
                params=world,
                video=agents.LatentVideo(video, video_graph),
                graphdef=graph,
                history=section.history,
                steps=2,
                image_size=setting.env.image_size,
            ),
            agents.VideoRewardModel(reward_model, reward_graphdef, setting.config.reward.window),
            jnp.float32(0.5),
        ),
    )
    start = Observation(jnp.asarray(videos(setting)[:, 0]), jnp.zeros(EPISODES, jnp.int32))

    @jax.jit
    def imagine(params, frozen, start, key):
        with sharding.over(setting.mesh):
            dynamics = improve.imagined(setting, *frozen)
            return rollout(family.policy(params, 1.0), dynamics, start, key, 2)

    start = meshes.spread_whole(setting.mesh, start)
    return params, imagine(params, frozen, start, jax.random.key(3))


def run_update(setting, params, trajectory):
    """Policy parameters after the updates of one iteration, in micro-batches of one decision."""
    family = small_policy(setting)
    recipe = grpo_loop.Recipe.from_config(
        setting, groups=2, group_size=4, minibatch=8, epochs=STEPS, micro_chunks=1
    )
    trajectory = trajectory.replace(success_B=jnp.arange(EPISODES) % 2 == 0)
    update = jax.jit(grpo_loop.make_update(family, recipe, setting.mesh))
    state = training.make_sharded(
        setting.mesh, lambda params: grpo_loop.initial_state(params, recipe), params
    )
    batch, weight = meshes.spread_whole(
        setting.mesh, jax.device_get((trajectory, jnp.ones(EPISODES)))
    )
    params, _, _ = update(state.params, state.opt_state, batch, weight, jax.random.key(5))
    return params


def run_reinforcement(setting) -> dict:
    params, trajectory = run_imagination(setting)
    return {
        "tokens": trajectory.tokens_BNKA,
        "frames": trajectory.frames_BTHWC.astype(jnp.float32),
        "update": run_update(setting, params, trajectory),
    }


PROGRAMS = (
    lambda setting: {"sft": run_sft(setting)},
    run_reinforcement,
    lambda setting: {"world_model": run_world_model(setting)},
    lambda setting: {"autoencoder": run_autoencoder(setting)},
    lambda setting: {"reward": run_reward(setting)},
)


def relative_difference(found, expected) -> float:
    """Of whole trees: |found - expected| / |expected|."""
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True))
    gap = sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in pairs)
    return (gap / sum(float(np.square(b.astype(np.float64)).sum()) for _, b in pairs)) ** 0.5


def main(path: str, *names: str) -> None:
    differences = {}
    with tempfile.TemporaryDirectory() as folder:
        alone = setting_on((1, 1, 1), Path(folder) / "alone")
        others = {n: setting_on(MESHES[n], Path(folder) / n) for n in names or MESHES}
        for program in PROGRAMS:
            expected = jax.device_get(program(alone))
            for name, setting in others.items():
                found = jax.device_get(program(setting))
                for part in expected:
                    difference = relative_difference(found[part], expected[part])
                    differences[f"{part} {name}"] = difference
                    print(part, name, difference, time.process_time(), file=sys.stderr, flush=True)
    Path(path).write_text(json.dumps(differences, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
