"""Every program of a full-size run with the shapes it has there; nothing is allocated."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from wmpo_jax.algorithm import rectified_flow
from wmpo_jax.algorithm.imagination import ImaginedDynamics
from wmpo_jax.algorithm.protocols import Observation
from wmpo_jax.algorithm.rollout import rollout
from wmpo_jax.algorithm.trajectory import Trajectory
from wmpo_jax.models.videomae import VideoMAE
from wmpo_jax.planning import networks
from wmpo_jax.runtime import sharding
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.mesh import batch_sharding
from wmpo_jax.stages import grpo_loop, training
from wmpo_jax.stages.networks import released
from wmpo_jax.stages.reward import WEIGHT_DECAY

PHASES = ("sft", "world_model", "reward", "imagine", "score", "update")
EPISODES = "improve.groups x group_size"
ANY_THRESHOLD = 0.5


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


def _key(mesh: Mesh) -> jax.ShapeDtypeStruct:
    key = jax.eval_shape(lambda: jax.random.key(0))
    place = NamedSharding(mesh, PartitionSpec())
    return jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=place)


def _training_step(
    phase: str,
    config: ConfigDict,
    mesh: Mesh,
    params: Any,
    loss_fn: Callable[..., Any],
    data: Any,
    weight_decay: float = 0.0,
    frozen: Any = None,
) -> Program:
    section = config[phase]
    optimizer = training.adamw(section.learning_rate, 1, weight_decay)  # any number of steps
    averaged = "ema_decay" in section
    state = training.state_template(mesh, params, optimizer, averaged)
    step = training.make_step(
        mesh,
        lambda params, data, key, _: loss_fn(params, data, key),
        optimizer,
        jax.random.key(0),
        section.get("ema_decay", 0.0),
        section.accumulate,
    )
    return Program(phase, step, (state, data, frozen), 0)


def _sft(config: ConfigDict, mesh: Mesh) -> Program:
    """Cross-entropy on the 256 classes of each action token."""
    family, params, frozen = networks.policy(config, mesh)
    count, side = config.sft.batch_size, config.image_size
    tokens = released(config, "policy")
    batch = {
        "frame": _shape(count, side, side, 3, dtype=jnp.uint8),
        "token": _shape(count, tokens.chunk, tokens.action_dim, dtype=jnp.int32),
        "goal": _shape(count, dtype=jnp.int32),
    }

    def loss_fn(params: Any, data: Any, key: jax.Array) -> tuple[jax.Array, Mapping]:
        logits = family.logits_of_frames(params, data["frame"], data["goal"])
        log_probs = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(log_probs, data["token"][..., None], axis=-1).mean(), {}

    data = _batch(mesh, "sft.batch_size", batch)
    weight_decay = config.sft.weight_decay
    return _training_step("sft", config, mesh, params, loss_fn, data, weight_decay, frozen)


def _world_model(config: ConfigDict, mesh: Mesh) -> Program:
    """The velocity of noisy chunks, with the history at its own noise level (arXiv 2511.09515)."""
    sizes = released(config, "world_model")
    graphdef, params = networks.world_model_params(config, mesh)
    side = config.image_size // released(config, "autoencoder").downsampling
    count = config.world_model.batch_size
    batch = (
        _shape(count, sizes.frames, side, side, sizes.in_channels),
        _shape(count, sizes.chunk, sizes.action_dim),
    )

    def loss_fn(params: Any, data: Any, key: jax.Array) -> tuple[jax.Array, Mapping]:
        x0, actions = data
        time_key, noise_key = jax.random.split(key)
        t_B = rectified_flow.sample_timesteps(time_key, len(x0))
        noise = jax.random.normal(noise_key, x0.shape)
        mask_BT = jnp.broadcast_to(jnp.arange(sizes.frames) >= sizes.history, x0.shape[:2])
        noisy = rectified_flow.noise_window(x0, noise, t_B, mask_BT)
        network = nnx.merge(graphdef, params)
        output = network(noisy, t_B, actions, mask_BT, config.image_size, config.image_size)
        velocity = output[..., : sizes.in_channels]
        return rectified_flow.flow_loss(velocity, x0, noise, mask_BT).mean(), {}

    data = _batch(mesh, "world_model.batch_size", batch)
    return _training_step("world_model", config, mesh, params, loss_fn, data)


def _reward(config: ConfigDict, mesh: Mesh) -> Program:
    """Cross-entropy on windows of frames."""
    sizes = released(config, "reward").scanned()
    graphdef, params = networks.abstract(mesh, lambda: VideoMAE(sizes, rngs=nnx.Rngs(0)))
    count, side = config.reward.batch_size, config.image_size
    batch = (
        _shape(count, sizes.num_frames, side, side, 3, dtype=jnp.uint8),
        _shape(count, dtype=jnp.int32),
    )

    def loss_fn(params: Any, data: Any, key: jax.Array) -> tuple[jax.Array, Mapping]:
        frames, labels = data
        network = nnx.merge(graphdef, params)
        log_probs = jax.nn.log_softmax(network(network.preprocess(frames)))
        return -jnp.take_along_axis(log_probs, labels[:, None], axis=1).mean(), {}

    data = _batch(mesh, "reward.batch_size", batch)
    return _training_step("reward", config, mesh, params, loss_fn, data, WEIGHT_DECAY)


def _imagine(config: ConfigDict, mesh: Mesh) -> Program:
    """Whole imagined episodes: policy, sampler, decoder and reward model in one scanned program.

    Beside it are in memory: the optimizer's state, and the batches of earlier attempts.
    """
    family, params, frozen = networks.policy(config, mesh)
    world = networks.frozen_world(config, mesh)
    recipe = grpo_loop.Recipe.of(config)
    count, side = recipe.groups * recipe.group_size, config.image_size
    start = Observation(
        frame_BHWC=_shape(count, side, side, 3, dtype=jnp.uint8),
        instruction_id_B=_shape(count, dtype=jnp.int32),
    )

    def imagine(params: Any, frozen: Any, world: Any, start: Any, key: jax.Array) -> Trajectory:
        policy = family.policy(training.joined(params, frozen), recipe.temperature)
        model, reward_model = world
        dynamics = ImaginedDynamics(model, reward_model, ANY_THRESHOLD, config.reward.min_step)
        with sharding.over(mesh):
            return rollout(policy, dynamics, start, key, config.improve.chunks)

    arguments = (params, frozen, world, _batch(mesh, EPISODES, start), _key(mesh))
    idle = sharding.abstract(mesh, jax.eval_shape(recipe.optimizer().init, params))
    earlier = chip_bytes(_trajectory(config, mesh)) * (recipe.attempts - 1)
    return Program("imagine", jax.jit(imagine), arguments, chip_bytes(idle) + earlier)


def _score(config: ConfigDict, mesh: Mesh) -> Program:
    """The windows that end in one chunk, of all episodes that are imagined at once."""
    _, reward_model = networks.frozen_world(config, mesh)
    side, chunk = config.image_size, released(config, "world_model").chunk
    count = config.improve.groups * config.improve.group_size
    video = _shape(count, reward_model.window - 1 + chunk, side, side, 3, dtype=jnp.uint8)

    def score(reward_model: Any, video: jax.Array) -> jax.Array:
        with sharding.over(mesh):
            return reward_model.score(video, jnp.zeros(len(video), jnp.int32))

    data = _batch(mesh, EPISODES, video)
    return Program("score", jax.jit(score), (reward_model, data), 0)


def _update(config: ConfigDict, mesh: Mesh) -> Program:
    """One iteration of GRPO on the groups that were kept."""
    family, params, frozen = networks.policy(config, mesh)
    recipe = grpo_loop.Recipe.of(config)
    trajectory = _trajectory(config, mesh)
    weight_B = _batch(mesh, EPISODES, _shape(recipe.groups * recipe.group_size))
    optimizer = recipe.optimizer()
    opt_state = sharding.abstract(mesh, jax.eval_shape(optimizer.init, params))

    update = grpo_loop.make_update(family, recipe, mesh)
    arguments = (params, opt_state, trajectory, weight_B, _key(mesh), frozen)
    resident = chip_bytes(networks.frozen_world(config, mesh))
    return Program("update", jax.jit(update, donate_argnums=(0, 1)), arguments, resident)


def _trajectory(config: ConfigDict, mesh: Mesh) -> Trajectory:
    """A batch of imagined episodes."""
    sizes, side = released(config, "policy"), config.image_size
    count, chunks = config.improve.groups * config.improve.group_size, config.improve.chunks
    tokens = (count, chunks, sizes.chunk, sizes.action_dim)
    episodes = Trajectory(
        frames_BTHWC=_shape(count, chunks * sizes.chunk + 1, side, side, 3, dtype=jnp.uint8),
        tokens_BNKA=_shape(*tokens, dtype=jnp.int32),
        actions_BNKA=_shape(*tokens),
        log_probs_BNKA=_shape(*tokens),
        instruction_id_B=_shape(count, dtype=jnp.int32),
        success_B=_shape(count, dtype=jnp.bool_),
        finish_step_B=_shape(count, dtype=jnp.int32),
        invalid_B=_shape(count, dtype=jnp.bool_),
    )
    return _batch(mesh, EPISODES, episodes)
