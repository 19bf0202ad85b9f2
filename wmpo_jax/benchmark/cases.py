"""What is measured: the programs of the stages, and the parts of an imagined chunk, each alone.

A case has shapes for arguments; weights and inputs are random, on which speed does not depend.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from wmpo_jax.agents.world_model import VideoWorldModel
from wmpo_jax.algorithm.protocols import Observation
from wmpo_jax.assembly import agents
from wmpo_jax.assembly import networks as assembled
from wmpo_jax.assembly.trained import imagined_sampler
from wmpo_jax.planning import networks
from wmpo_jax.planning.programs import program
from wmpo_jax.planning.task import planned_task
from wmpo_jax.runtime import sharding
from wmpo_jax.runtime.mesh import batch_sharding
from wmpo_jax.training import autoencoder, world_model
from wmpo_jax.training.state import abstract, state_template
from wmpo_jax.training.step import Batch

STEPS = "control steps"
SAMPLES = "samples"


class Case(NamedTuple):
    """A compiled function and what a run of it makes.

    Attributes:
      function: jitted; arguments: shapes with shardings.
      count, unit: what one run makes: so many control steps, samples or decisions.
      detail: sizes, for the table.
    """

    name: str
    function: Any
    arguments: tuple[Any, ...]
    count: int
    unit: str
    detail: str


def imagination(config: ConfigDict, mesh: Mesh) -> Iterator[Case]:
    """Policy, world model, decoder and reward model for one chunk; the whole rollout; an update."""
    settings, task = agents.grpo_config(config), planned_task(config)
    episodes = settings.episodes
    made, sizes = episodes * task.chunk, f"{episodes} episodes, one chunk"
    parts = _parts(config, mesh)
    steps = config.world_model.sampling_steps
    yield Case("policy", *parts["policy"], made, STEPS, sizes)
    yield Case("world model", *parts["sampler"], made, STEPS, f"{sizes}, {steps} sampling steps")
    yield Case("decode", *parts["decode"], made, STEPS, sizes)
    score = program("score", config, mesh)
    yield Case("reward", score.function, score.arguments, made, STEPS, sizes)
    chunks = task.horizon // task.chunk
    yield rollout_case(config, mesh, chunks)
    update = program("update", config, mesh)
    decisions = episodes * chunks * settings.epochs
    sizes = f"{episodes} episodes of {chunks} chunks, {settings.epochs} epochs"
    yield Case("update", update.function, update.arguments, decisions, "decisions", sizes)


def rollout_case(config: ConfigDict, mesh: Mesh, chunks: int) -> Case:
    """Imagined episodes of so many chunks as one program."""
    task, settings = planned_task(config), agents.grpo_config(config)
    policy = agents.policy(config, task)
    imagine = imagined_sampler(mesh, policy, settings, config.reward.min_step, chunks)
    made = settings.episodes * chunks * task.chunk
    detail = f"{settings.episodes} episodes of {chunks} chunks"
    arguments = program("imagine", config, mesh).arguments
    return Case("imagined rollout", imagine, arguments, made, STEPS, detail)


def sampler_case(config: ConfigDict, mesh: Mesh) -> Case:
    """The world model's part of a chunk."""
    episodes, steps = agents.grpo_config(config).episodes, config.world_model.sampling_steps
    made, detail = episodes * planned_task(config).chunk, f"{episodes} episodes, {steps} steps"
    return Case("world model", *_parts(config, mesh)["sampler"], made, STEPS, detail)


def training(config: ConfigDict, mesh: Mesh) -> Iterator[Case]:
    """A step of each supervised training."""
    for phase in ("sft", "reward"):
        found = program(phase, config, mesh)
        section = config[phase]
        rows = section.batch_size * section.get("accumulate", 1)
        detail = f"batch {rows}"
        yield Case(f"{phase} training", found.function, found.arguments, rows, SAMPLES, detail)
    if config.autoencoder.steps:
        yield _autoencoder_case(config, mesh)
    yield world_model_case(config, mesh)


def world_model_case(config: ConfigDict, mesh: Mesh) -> Case:
    """A step of stage world_model: on latents in memory (tiny networks), or on streamed frames."""
    section = config.world_model
    rows = section.batch_size * section.get("accumulate", 1)
    if "networks" in config:
        found = program("world_model", config, mesh)
        function, arguments = found.function, found.arguments
        detail = f"batch {rows}, with the encoding of its frames"
    else:
        function, arguments = _world_model_in_memory(config, mesh)
        detail = f"batch {rows}"
    return Case("world_model training", function, arguments, rows, SAMPLES, detail)


def _parts(config: ConfigDict, mesh: Mesh) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Function and arguments of what an imagined chunk consists of."""
    task, settings = planned_task(config), agents.grpo_config(config)
    params, (world, _, _), _, key = program("imagine", config, mesh).arguments
    policy, side = agents.policy(config, task), task.image_size

    def rows(shape: tuple[int, ...], dtype: Any = jnp.float32) -> Any:
        whole = (settings.episodes, *shape)
        return jax.ShapeDtypeStruct(whole, dtype, sharding=batch_sharding(mesh))

    start = Observation(rows((side, side, 3), jnp.uint8), rows((), jnp.int32))
    video = assembled.autoencoder_config(config, 1.0)
    frame = (side // video.downsampling, side // video.downsampling, video.latent_channels)
    actions = rows((task.chunk, task.action_dim))

    def act(params: Any, start: Observation, key: jax.Array) -> Any:
        return policy.acting(params, settings.temperature)(start, key)

    return {
        "policy": (sharding.compiled(mesh, act), (params, start, key)),
        "sampler": (
            sharding.compiled(mesh, VideoWorldModel.predict),
            (world, rows((world.history, *frame)), actions, key),
        ),
        "decode": (
            sharding.compiled(mesh, VideoWorldModel.decode),
            (world, rows((task.chunk, *frame))),
        ),
    }


def _autoencoder_case(config: ConfigDict, mesh: Mesh) -> Case:
    settings, side = agents.autoencoder_training(config), config.image_size
    graphdef, params = abstract(mesh, lambda: agents.autoencoder_network(config))
    state = state_template(mesh, params, autoencoder.optimizer(settings))
    step = autoencoder.step_function(mesh, graphdef, settings, (), jax.random.key(0))
    shape = (settings.batch_size, 1, side, side, 3)
    frames: Any = jax.ShapeDtypeStruct(shape, jnp.uint8, sharding=batch_sharding(mesh))
    data, rows = Batch({"frames_BTHWC": frames}), settings.batch_size
    arguments = (state, data, None)
    return Case("autoencoder training", step, arguments, rows, SAMPLES, f"batch {rows}")


def _world_model_in_memory(config: ConfigDict, mesh: Mesh) -> tuple[Any, tuple[Any, ...]]:
    """On latents of the run's own episodes, which every device has a copy of."""
    task = planned_task(config)
    settings = agents.world_model_training(config, task)
    graphdef, params = abstract(mesh, lambda: agents.world_model_network(config, task))
    state = state_template(mesh, params, world_model.optimizer(settings), averaged=True)
    step = world_model.step_function(mesh, graphdef, settings, jax.random.key(0))
    episodes = {
        "demos": config.demos.episodes,
        "play": config.play.episodes,
        "rollouts": config.collect.starts * config.collect.group_size,
    }
    video = assembled.autoencoder_config(config, 1.0)
    side = task.image_size // video.downsampling

    def source(count: int) -> dict[str, jax.ShapeDtypeStruct]:
        latents = (count, task.horizon + 1, side, side, video.latent_channels)
        return {
            "latents_ETHWC": jax.ShapeDtypeStruct(latents, jnp.float32),
            "actions_ETA": jax.ShapeDtypeStruct((count, task.horizon, task.action_dim), "float32"),
        }

    corpus = networks.whole(mesh, {name: source(count) for name, count in episodes.items()})
    return step, (state, corpus, None)
