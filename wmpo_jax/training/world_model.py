"""Training of the world model: pre-training on demonstrations and play, then alignment.

Two lessons of small scale shape it. Windows are chosen and weighted by inputs only, never by what
happened in them: a loss that favors moving outcomes makes an optimistic model. And in alignment
the demonstrations are left out, because they teach "a purposeful motion succeeds", while play stays
in as the bulk, because 128 rollouts alone would be learnt by heart.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from wmpo_jax.agents.world_model import FlowConfig, chunk_noise, flow_loss, predict_chunk
from wmpo_jax.data.loading import WindowSpec
from wmpo_jax.models.stdit import STDiT
from wmpo_jax.training.optimizers import OptimizerConfig, make_optimizer
from wmpo_jax.training.state import spread
from wmpo_jax.training.step import Batch, StepFunction, make_step

SOURCES = ("demos", "play", "rollouts")
# Source -> latents_ETHWC (or frames_ETHWC, uint8) and actions_ETA; with frames an "autoencoder".
Corpus = dict[str, Any]


@dataclass(frozen=True)
class WorldModelTraining:
    """Hyperparameters of both phases.

    Attributes:
      flow: of the loss.
      history, chunk: frames of a window. horizon: actions of an episode in memory.
      pretrain_steps: of the first phase; the rest of the steps aligns.
      demo_fraction: of windows in pre-training. rollout_fraction: of windows in alignment.
      self_forcing: share of windows whose history is the model's own prediction.
      forcing_from: step from which on it is; before, predictions are not worth to learn from.
      ema_decay: of the averaged weights.
    """

    optimizer: OptimizerConfig
    flow: FlowConfig
    batch_size: int
    history: int
    chunk: int
    horizon: int
    pretrain_steps: int
    demo_fraction: float
    rollout_fraction: float
    self_forcing: float
    ema_decay: float
    forcing_from: int = 0
    accumulate: int = 1

    @property
    def forced_rows(self) -> int:
        """Rows of a batch whose history is predicted."""
        return int(self.self_forcing * self.batch_size)

    @property
    def lead(self) -> int:
        """Frames and actions before a window that self-forcing predicts its history from."""
        return self.chunk if self.forced_rows else 0

    @property
    def window_spec(self) -> WindowSpec:
        """What is read of episodes on disk."""
        frames = self.lead + self.history
        return WindowSpec(frames, self.chunk, future=True, past_actions=self.lead)


class Windows(NamedTuple):
    """A batch.

    Attributes:
      latents: [B, lead + history + chunk, h, w, c]; actions: [B, lead + chunk, A].
      early_B: rows without a whole chunk before their history, which are not self-forced.
    """

    latents: jax.Array
    actions: jax.Array
    early_B: jax.Array


def optimizer(config: WorldModelTraining) -> Any:
    """The optax transformation."""
    return make_optimizer("world_model", config.optimizer, stacked="pairs")


def step_function(
    mesh: Mesh, graphdef: Any, config: WorldModelTraining, key: jax.Array
) -> StepFunction:
    """The step that the stage runs and the planner compiles.

    Its data are a `Corpus`; or a streamed batch of frames and actions with the `autoencoder` that
    encodes them, and the rollouts of the corpus where there are any.
    """

    def loss(
        params: Any, data: Any, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        window_key, imagine_key, flow_key = jax.random.split(key, 3)
        if isinstance(data, Batch):
            windows = _streamed_windows(config, data, window_key, step)
        else:
            windows = _windows(config, data, window_key, step)
        windows = spread(mesh, windows)
        network = nnx.merge(graphdef, params)
        history, chunk = jnp.split(windows.latents[:, config.lead :], [config.history], axis=1)
        if config.forced_rows:
            history = jax.lax.cond(
                step >= config.forcing_from,
                lambda: _self_forced(network, config, windows, history, imagine_key),
                lambda: history,
            )
        actions = windows.actions[:, config.lead :]
        return flow_loss(network, config.flow, history, chunk, actions, flow_key), {}

    return make_step(
        mesh, loss, optimizer(config), key, config.ema_decay, accumulate=config.accumulate
    )


def _windows(
    config: WorldModelTraining, corpus: Corpus, key: jax.Array, step: jax.Array
) -> Windows:
    """Drawn from the corpus."""
    aligning = step >= config.pretrain_steps
    rollout_share = jnp.where(aligning, config.rollout_fraction, 0.0)
    demo_share = jnp.where(aligning, 0.0, config.demo_fraction)
    source_key, encode_key, *keys = jax.random.split(key, 5)
    u_B = jax.random.uniform(source_key, (config.batch_size,))
    demos, play, rollouts = (
        _sample(config, corpus[name], k) for name, k in zip(SOURCES, keys, strict=True)
    )

    def pick(demo: jax.Array, play: jax.Array, rollout: jax.Array) -> jax.Array:
        u = _column(u_B, play)
        rest = jnp.where(u > 1.0 - demo_share, demo, play)
        return jnp.where(u < rollout_share, rollout, rest)

    latents, actions = jax.tree.map(pick, demos, play, rollouts)
    if "autoencoder" in corpus:
        latents = corpus["autoencoder"].encode(latents, encode_key)
    return Windows(latents, actions, jnp.zeros(config.batch_size, bool))


def _streamed_windows(
    config: WorldModelTraining, batch: Batch, key: jax.Array, step: jax.Array
) -> Windows:
    """Of a batch from disk; in alignment some rows are rollouts."""
    encode_key, source_key, rollout_key = jax.random.split(key, 3)
    rows, constants = batch.rows, batch.constants
    latents = constants["autoencoder"].encode(rows["frames_BTHWC"], encode_key)
    actions, early_B = rows["actions_BKA"], rows["start_B"] < config.chunk
    if "rollouts" not in constants:
        return Windows(latents, actions, early_B)
    aligning = step >= config.pretrain_steps
    share = jnp.where(aligning, config.rollout_fraction, 0.0)
    rollout_B = jax.random.uniform(source_key, early_B.shape) < share

    def pick(rollout: jax.Array, disk: jax.Array) -> jax.Array:
        return jnp.where(_column(rollout_B, disk), rollout, disk)

    sampled, past = _sample(config, constants["rollouts"], rollout_key)
    if sampled.dtype == jnp.uint8:
        sampled = constants["autoencoder"].encode(sampled, encode_key)
    latents, actions = jax.tree.map(pick, (sampled, past), (latents, actions))
    return Windows(latents, actions, early_B & ~rollout_B)


def _column(x_B: jax.Array, like: jax.Array) -> jax.Array:
    return x_B.reshape(-1, *[1] * (like.ndim - 1))


def _sample(
    config: WorldModelTraining, source: dict[str, jax.Array], key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """One window per row from one source, its chunk starting at any step.

    Rows that will be self-forced start late enough for their history to be a whole chunk's result.
    Before an episode's beginning stand copies of its first frame.
    """
    episode_key, start_key = jax.random.split(key)
    shape = (config.batch_size, 1)
    episode_B1 = jax.random.randint(episode_key, shape, 0, source["actions_ETA"].shape[0])
    forced_B1 = jnp.arange(config.batch_size)[:, None] < config.forced_rows
    earliest_B1 = jnp.where(forced_B1, config.chunk, 0)
    start_B1 = jax.random.randint(start_key, shape, earliest_B1, config.horizon - config.chunk + 1)
    # Frame `start` ends the history; the targets are the frames start + 1 .. start + chunk.
    frame_1T = jnp.arange(1 - config.history - config.lead, config.chunk + 1)[None]
    action_1T = jnp.arange(-config.lead, config.chunk)[None]
    frames = source["latents_ETHWC" if "latents_ETHWC" in source else "frames_ETHWC"]
    frames = frames[episode_B1, jnp.maximum(start_B1 + frame_1T, 0)]
    return frames, source["actions_ETA"][episode_B1, jnp.maximum(start_B1 + action_1T, 0)]


def _self_forced(
    network: STDiT,
    config: WorldModelTraining,
    windows: Windows,
    history: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """Replaces the history of the first rows by the model's own prediction of it, made in one step.

    In imagination every chunk but the first continues a prediction; this shows the model how its
    own predictions look.
    """
    rows, length = config.forced_rows, config.history
    before = windows.latents[:rows, :length]
    noise = chunk_noise(key, before, config.chunk)
    actions = windows.actions[:rows, : config.lead]
    predicted = predict_chunk(network, config.flow, before, actions, noise, steps=1)
    forced = jax.lax.stop_gradient(predicted[:, -length:])
    forced = jnp.concatenate([forced, history[rows:]])
    return jnp.where(_column(windows.early_B, history), history, forced)
