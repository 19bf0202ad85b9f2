"""Every program of a full-size run with the shapes it has there; nothing is allocated.

The functions are those that the stages run; data come from a dataset on disk, as they do at these
sizes.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from wmpo_jax.agents.policy import frozen_of, trained_of
from wmpo_jax.agents.reward_model import VideoRewardModel
from wmpo_jax.algorithm.protocols import Observation
from wmpo_jax.algorithm.trajectory import Experience
from wmpo_jax.assembly import agents
from wmpo_jax.assembly.trained import imagined_sampler
from wmpo_jax.envs.recorded import RecordedTask
from wmpo_jax.planning import networks
from wmpo_jax.planning.task import planned_task
from wmpo_jax.runtime import sharding
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.mesh import batch_sharding
from wmpo_jax.training import grpo, reward_model, sft, world_model
from wmpo_jax.training.state import abstract, state_template
from wmpo_jax.training.step import Batch

PHASES = ("sft", "world_model", "reward", "imagine", "score", "update")
EPISODES = "improve.groups x group_size"


class Program(NamedTuple):
    """A phase of training as one compiled function.

    Attributes:
      function: jitted.
      arguments: shapes with shardings.
      resident: bytes on each chip that stay alive during the phase and are no arguments.
    """

    phase: str
    function: Any
    arguments: tuple[Any, ...]
    resident: int

    def trace(self) -> Any:
        """The `jax.stages.Traced` of it: its jaxpr, and what can be lowered and compiled."""
        return self.function.trace(*self.arguments)


def program(phase: str, config: ConfigDict, mesh: Mesh) -> Program:
    """The program of one of PHASES.

    Raises:
      UserError: a batch of the config does not divide the mesh.
    """
    return {
        "sft": _sft,
        "world_model": _world_model,
        "reward": _reward,
        "imagine": _imagine,
        "score": _score,
        "update": _update,
    }[phase](config, mesh)


def chip_bytes(tree: Any) -> int:
    """Bytes of one chip's part of sharded shapes."""
    leaves = jax.tree.leaves(tree)
    return sum(
        leaf.dtype.itemsize * _size(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves
    )


def _size(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


def _batch(mesh: Mesh, name: str, tree: Any) -> Any:
    """Shapes of a batch, spread over the mesh."""

    def spread(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        parts = sharding.batch_parts(mesh)
        if leaf.shape[0] % parts:
            raise UserError(
                f"{name} = {leaf.shape[0]} cannot be spread over data x fsdp = {parts} chips: "
                f"make it a multiple of {parts} or change config.mesh."
            )
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=batch_sharding(mesh))

    return jax.tree.map(spread, tree)


def _shape(*sides: int, dtype: Any = jnp.float32) -> Any:  # stands for an array where one is typed
    return jax.ShapeDtypeStruct(sides, dtype)


def _whole(mesh: Mesh, tree: Any) -> Any:
    """Shapes of full copies on each chip."""
    place = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree
    )


def _key(mesh: Mesh) -> jax.ShapeDtypeStruct:
    return _whole(mesh, jax.eval_shape(lambda: jax.random.key(0)))


def _streamed(
    config: ConfigDict, mesh: Mesh, phase: str, rows: dict[str, Any], constants: Any = None
) -> Batch:
    name = f"{phase}.batch_size x accumulate"
    return Batch(_batch(mesh, name, rows), constants or {})


def _windows(count: int, frames: int, actions: int, task: RecordedTask) -> dict[str, Any]:
    """What `data.loading.WindowLoader` makes."""
    side = task.image_size
    return {
        "frames_BTHWC": _shape(count, frames, side, side, 3, dtype=jnp.uint8),
        "actions_BKA": _shape(count, actions, task.action_dim),
        "instruction_id_B": _shape(count, dtype=jnp.int32),
        "start_B": _shape(count, dtype=jnp.int32),
    }


def _sft(config: ConfigDict, mesh: Mesh) -> Program:
    """A step of stage sft."""
    task, settings = planned_task(config), agents.sft_config(config)
    policy = agents.policy(config, task)
    params = networks.policy_params(config, mesh, policy)
    state = state_template(mesh, trained_of(params), sft.optimizer(settings))
    rows = _windows(settings.batch_size * settings.accumulate, 1, task.chunk, task)
    step = sft.step_function(mesh, policy, settings, jax.random.key(0))
    data = _streamed(config, mesh, "sft", rows)
    return Program("sft", step, (state, data, frozen_of(params)), 0)


def _world_model(config: ConfigDict, mesh: Mesh) -> Program:
    """A step of stage world_model, the encoding of its frames and the rollouts included."""
    task = planned_task(config)
    settings = agents.world_model_training(config, task)
    graphdef, params = abstract(mesh, lambda: agents.world_model_network(config, task))
    state = state_template(mesh, params, world_model.optimizer(settings), averaged=True)
    spec, frames = settings.window_spec, networks.autoencoder(config, mesh)
    network = nnx.merge(frames.graphdef, frames.params).config
    side = task.image_size // network.downsampling
    episodes = config.collect.starts * config.collect.group_size
    latents = (episodes, task.horizon + 1, side, side, network.latent_channels)
    rollouts = {
        "latents_ETHWC": _shape(*latents),
        "actions_ETA": _shape(episodes, task.horizon, task.action_dim),
    }
    constants = networks.whole(mesh, {"rollouts": rollouts}) | {"autoencoder": frames}
    count, seen = settings.batch_size * settings.accumulate, spec.history + task.chunk
    rows = _windows(count, seen, spec.past_actions + task.chunk, task)
    data = _streamed(config, mesh, "world_model", rows, constants)
    step = world_model.step_function(mesh, graphdef, settings, jax.random.key(0))
    return Program("world_model", step, (state, data, None), 0)


def _reward(config: ConfigDict, mesh: Mesh) -> Program:
    """A step of stage reward."""
    task = planned_task(config)
    settings = agents.reward_training(config, task)
    graphdef, params = abstract(mesh, lambda: agents.reward_network(config, task))
    state = state_template(mesh, params, reward_model.optimizer(settings))
    count, side = settings.batch_size * settings.accumulate, task.image_size
    rows = {
        "frames_BTHWC": _shape(count, settings.window, side, side, 3, dtype=jnp.uint8),
        "instruction_id_B": _shape(count, dtype=jnp.int32),
        "success_B": _shape(count, dtype=jnp.bool_),
    }
    data = _streamed(config, mesh, "reward", rows)
    step = reward_model.step_function(mesh, graphdef, settings, jax.random.key(0))
    return Program("reward", step, (state, data, None), 0)


def _imagine(config: ConfigDict, mesh: Mesh) -> Program:
    """Whole imagined episodes: policy, sampler, decoder and reward model in one scanned program.

    Beside it are in memory: the optimizer's state, and the batches of earlier attempts.
    """
    task, settings = planned_task(config), agents.grpo_config(config)
    policy = agents.policy(config, task)
    params = networks.policy_params(config, mesh, policy)
    parts = networks.imagined_parts(config, mesh, task)
    groups, side = settings.groups, task.image_size
    start = Observation(
        frame_BHWC=_shape(groups, side, side, 3, dtype=jnp.uint8),
        instruction_id_B=_shape(groups, dtype=jnp.int32),
    )
    even = groups % sharding.batch_parts(mesh) == 0
    start = _batch(mesh, EPISODES, start) if even else _whole(mesh, start)
    chunks, min_step = task.horizon // task.chunk, config.reward.min_step
    imagine = imagined_sampler(mesh, policy, settings, min_step, chunks)
    arguments = (params, parts, start, _key(mesh))
    optimizer = settings.optimizer()
    idle = sharding.abstract(mesh, jax.eval_shape(optimizer.init, trained_of(params)))
    earlier = chip_bytes(_experience(config, mesh, task)) * (settings.attempts - 1)
    return Program("imagine", imagine, arguments, chip_bytes(idle) + earlier)


def _score(config: ConfigDict, mesh: Mesh) -> Program:
    """The windows that end in one chunk, of all episodes that are imagined at once."""
    task, settings = planned_task(config), agents.grpo_config(config)
    model = networks.imagined_parts(config, mesh, task)[1]
    frames, side = model.window - 1 + task.chunk, task.image_size
    rows = (
        _shape(settings.episodes, frames, side, side, 3, dtype=jnp.uint8),
        _shape(settings.episodes, dtype=jnp.int32),
    )
    score = sharding.compiled(mesh, VideoRewardModel.score)
    return Program("score", score, (model, *_batch(mesh, EPISODES, rows)), 0)


def _update(config: ConfigDict, mesh: Mesh) -> Program:
    """One iteration of GRPO on the groups that were kept."""
    task, settings = planned_task(config), agents.grpo_config(config)
    policy = agents.policy(config, task)
    params = networks.policy_params(config, mesh, policy)
    trained, optimizer = trained_of(params), settings.optimizer()
    arguments = (
        trained,
        sharding.abstract(mesh, jax.eval_shape(optimizer.init, trained)),
        _experience(config, mesh, task),
        _batch(mesh, EPISODES, _shape(settings.episodes)),
        _key(mesh),
        frozen_of(params),
    )
    update = grpo.jitted_update(policy, settings, mesh)
    resident = chip_bytes(networks.imagined_parts(config, mesh, task))
    return Program("update", update, arguments, resident)


def _experience(config: ConfigDict, mesh: Mesh, task: RecordedTask) -> Experience:
    """A batch of imagined episodes."""
    side, count = task.image_size, config.improve.groups * config.improve.group_size
    tokens = (count, task.horizon // task.chunk, task.chunk, task.action_dim)
    episodes = Experience(
        frames_BNHWC=_shape(count, tokens[1], side, side, 3, dtype=jnp.uint8),
        tokens_BNKA=_shape(*tokens, dtype=jnp.int32),
        log_probs_BNKA=_shape(*tokens),
        instruction_id_B=_shape(count, dtype=jnp.int32),
        success_B=_shape(count, dtype=jnp.bool_),
        finish_step_B=_shape(count, dtype=jnp.int32),
    )
    return _batch(mesh, EPISODES, episodes)
