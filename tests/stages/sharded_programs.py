"""Training steps, the imagined rollout and the GRPO update on meshes of 8 devices.

    python -m tests.stages.sharded_programs result.json [2x2x2 ...]

Writes, per program and mesh, how far it ends from the same program on one device.
"""

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

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
from jax.sharding import Mesh  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

from wmpo_jax.agents.policy import Policy  # noqa: E402
from wmpo_jax.algorithm.protocols import Observation  # noqa: E402
from wmpo_jax.assembly import agents  # noqa: E402
from wmpo_jax.assembly.trained import imagined_sampler  # noqa: E402
from wmpo_jax.models.vla import VLA, VLAConfig  # noqa: E402
from wmpo_jax.runtime import mesh as meshes  # noqa: E402
from wmpo_jax.runtime.config import load_config  # noqa: E402
from wmpo_jax.training import autoencoder, grpo, reward_model, sft, world_model  # noqa: E402
from wmpo_jax.training.state import create, initial_state, make_sharded  # noqa: E402
from wmpo_jax.training.step import Batch  # noqa: E402

MESHES = {"8x1x1": (8, 1, 1), "2x2x2": (2, 2, 2), "1x4x2": (1, 4, 2)}
EPISODES, STEPS = 8, 3
ENV: Any = SimpleNamespace(
    action_dim=3, chunk=4, horizon=8, image_size=32, instructions=("press the pad",)
)


KEY = jax.random.key(7)


class Place(NamedTuple):
    """A config and the mesh that its programs run on."""

    config: ConfigDict
    mesh: Mesh


def place_on(shape: tuple[int, int, int]) -> Place:
    config = load_config("configs/tiny.py:smoke")
    for name in ("sft", "autoencoder", "world_model", "reward"):
        config[name].batch_size = 8
    # Adam divides a gradient of rounding errors by itself; a small rate keeps that out of sight.
    for name in ("sft", "autoencoder", "world_model", "reward", "improve"):
        config[name].learning_rate = 1e-4
    config.world_model.update(depth=1, hidden=32, patch=2)
    config.autoencoder.latents = "tiny"  # the one that is trained
    devices = jax.devices()[: int(np.prod(shape))]
    return Place(config, meshes.mesh_of(devices, shape))


def small_policy(config: ConfigDict) -> Policy:
    """Of two scanned layers in each part."""
    tiny = VLAConfig.tiny(ENV.action_dim, ENV.chunk, n_action_classes=config.policy.bins)
    parts = {name: replace(getattr(tiny, name), depth=2) for name in ("dino", "siglip", "llama")}
    vla = replace(tiny, **parts).scanned()

    def build() -> VLA:
        return VLA(vla, rngs=nnx.Rngs(0))

    graphdef = nnx.graphdef(nnx.eval_shape(build))
    return replace(agents.policy(config, ENV), build=build, graphdef=graphdef)


def videos() -> np.ndarray:
    """uint8 noise, [E, T, H, W, 3]."""
    shape = (EPISODES, ENV.horizon + 1, ENV.image_size, ENV.image_size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def actions(*shape: int) -> np.ndarray:
    full = (*shape, ENV.action_dim)
    return np.random.default_rng(1).uniform(-1, 1, full).astype(np.float32)


def train(mesh, params, optimizer, step, data, averaged=False):
    """Parameters after STEPS steps."""
    state = initial_state(mesh, params, optimizer, averaged)
    if not isinstance(data, Batch):
        data = meshes.replicate(mesh, data)
    for _ in range(STEPS):
        state, _ = step(state, data)
    return state.params


def run_sft(place):
    policy, mesh = small_policy(place.config), place.mesh
    config = replace(agents.sft_config(place.config), accumulate=2, augment=True)
    data = {
        "frame_XHWC": videos()[:, 0],
        "chunk_XKA": actions(EPISODES, ENV.chunk),
        "instruction_id_X": np.zeros(EPISODES, np.int32),
    }
    _, params = create(mesh, policy.build)
    step = sft.step_function(mesh, policy, config, KEY)
    return train(mesh, params, sft.optimizer(config), step, data)


def run_world_model(place):
    size = ENV.image_size // 4
    shape = (EPISODES, ENV.horizon + 1, size, size, 4)
    corpus = {
        name: {
            "latents_ETHWC": np.random.default_rng(2).normal(size=shape).astype(np.float32),
            "actions_ETA": actions(EPISODES, ENV.horizon),
        }
        for name in world_model.SOURCES
    }
    config = agents.world_model_training(place.config, ENV)
    graph, params = create(place.mesh, lambda: agents.world_model_network(place.config, ENV))
    step = world_model.step_function(place.mesh, graph, config, KEY)
    optimizer = world_model.optimizer(config)
    return train(place.mesh, params, optimizer, step, corpus, averaged=True)


def run_autoencoder(place):
    data = {name: videos() for name in world_model.SOURCES}
    config = agents.autoencoder_training(place.config)
    graph, params = create(place.mesh, lambda: agents.autoencoder_network(place.config))
    step = autoencoder.step_function(place.mesh, graph, config, tuple(data), KEY)
    return train(place.mesh, params, autoencoder.optimizer(config), step, data)


def run_reward(place):
    """Micro-batches are dealt from a loader's rows."""
    config = replace(agents.reward_training(place.config, ENV), batch_size=4, accumulate=2)
    episodes = {f"{source}_ETHWC": videos() for source in reward_model.SOURCES}
    episodes["success_E"] = np.arange(EPISODES) % 2 == 0
    episodes["finish_step_E"] = np.full(EPISODES, 3, np.int32)
    episodes["instruction_id_E"] = np.zeros(EPISODES, np.int32)
    rows = reward_model.EpisodeWindows(episodes, config, 0, np.arange(EPISODES)).batch(0)
    graph, params = create(place.mesh, lambda: agents.reward_network(place.config, ENV))
    step = reward_model.step_function(place.mesh, graph, config, KEY)
    data = Batch(meshes.spread_whole(place.mesh, rows))
    return train(place.mesh, params, reward_model.optimizer(config), step, data)


def run_imagination(place):
    """(policy parameters, imagined trajectory)."""
    config, mesh = place.config, place.mesh
    policy = small_policy(config)
    _, params = create(mesh, policy.build)
    world = create(mesh, lambda: agents.world_model_network(config, ENV))[1]
    frames = create(mesh, lambda: agents.autoencoder_network(config))[1]
    reward = create(mesh, lambda: agents.reward_network(config, ENV))[1]
    parts = (
        agents.world_model(config, ENV, world, agents.autoencoder(config, 1.0, frames)),
        agents.reward_model(config, ENV, reward),
        jnp.float32(0.5),
    )
    groups, group_size = 2, EPISODES // 2
    start = Observation(jnp.asarray(videos()[:groups, 0]), jnp.zeros(groups, jnp.int32))
    settings = agents.grpo_config(config, groups=groups, group_size=group_size, minibatch=EPISODES)
    imagine = imagined_sampler(mesh, policy, settings, config.reward.min_step, 2)
    start, parts = meshes.spread_if_even(mesh, start), meshes.replicate(mesh, parts)
    return params, imagine(params, parts, start, jax.random.key(3))


def run_update(place, params, trajectory):
    """Policy parameters after the updates of one iteration, in micro-batches of one decision."""
    config = agents.grpo_config(
        place.config, groups=2, group_size=4, minibatch=8, epochs=STEPS, micro_chunks=1
    )
    trajectory = trajectory.replace(success_B=jnp.arange(EPISODES) % 2 == 0)
    update = grpo.jitted_update(small_policy(place.config), config, place.mesh)
    state = make_sharded(place.mesh, lambda params: grpo.initial_state(params, config), params)
    batch, weight = meshes.spread_whole(
        place.mesh, jax.device_get((trajectory, jnp.ones(EPISODES)))
    )
    params, _, _ = update(state.params, state.opt_state, batch, weight, jax.random.key(5))
    return params


def run_reinforcement(place) -> dict:
    params, trajectory = run_imagination(place)
    return {
        "tokens": trajectory.tokens_BNKA,
        "frames": trajectory.frames_BNHWC.astype(jnp.float32),
        "update": run_update(place, params, trajectory),
    }


PROGRAMS = (
    lambda place: {"sft": run_sft(place)},
    run_reinforcement,
    lambda place: {"world_model": run_world_model(place)},
    lambda place: {"autoencoder": run_autoencoder(place)},
    lambda place: {"reward": run_reward(place)},
)


def relative_difference(found, expected) -> float:
    """Of whole trees: |found - expected| / |expected|."""
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True))
    gap = sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in pairs)
    return (gap / sum(float(np.square(b.astype(np.float64)).sum()) for _, b in pairs)) ** 0.5


def main(path: str, *names: str) -> None:
    differences = {}
    alone = place_on((1, 1, 1))
    others = {name: place_on(MESHES[name]) for name in names or MESHES}
    for program in PROGRAMS:
        expected = jax.device_get(program(alone))
        for name, place in others.items():
            found = jax.device_get(program(place))
            for part in expected:
                difference = relative_difference(found[part], expected[part])
                differences[f"{part} {name}"] = difference
                print(part, name, difference, time.process_time(), file=sys.stderr, flush=True)
    Path(path).write_text(json.dumps(differences, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
