"""Stage 4b: the world model, pre-trained on demonstrations and play, aligned on real rollouts.

Two lessons of small scale shape it. Windows are chosen and weighted by inputs only, never by what
happened in them: a loss that favors moving outcomes makes an optimistic model. And in alignment
the demonstrations are left out, because they teach "a purposeful motion succeeds", while play stays
in as the bulk, because 128 rollouts alone would be learnt by heart.
"""

import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from wmpo_jax.algorithm import rectified_flow
from wmpo_jax.data.loading import WindowSpec
from wmpo_jax.models.stdit import STDiT
from wmpo_jax.runtime.files import load_arrays
from wmpo_jax.stages import networks, training
from wmpo_jax.stages.agents import (
    LatentVideo,
    VideoWorldModel,
    condition,
    predict_chunk,
    world_model_network,
)
from wmpo_jax.stages.autoencoder import SOURCES, load_video, recorded
from wmpo_jax.stages.setting import Setting

Corpus = dict[str, dict[str, jax.Array]]  # source -> latents_ETHWC, actions_ETA


def run(setting: Setting) -> None:
    """Writes checkpoints/world_model; both phases are one training run with two mixtures."""
    started = time.monotonic()
    section = setting.config.world_model
    graphdef, params = networks.create(setting, "world_model", lambda: _network(setting))
    optimizer = _optimizer(setting)
    step_fn = training.make_step(
        setting.mesh,
        lambda params, data, key, step: _loss(graphdef, setting, params, data, key, step),
        optimizer,
        setting.key("world_model"),
        section.ema_decay,
        section.get("accumulate", 1),
    )
    steps = section.pretrain_steps + section.align_steps
    training.fit(
        "world_model",
        training.initial_state(setting.mesh, params, optimizer, averaged=True),
        step_fn,
        _corpus(setting) if setting.mixture is None else _stream(setting, _corpus(setting)),
        steps,
        section.checkpoint_every,
        setting,
    )
    result = {
        "seconds": time.monotonic() - started,
        "steps": steps,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
    }
    setting.workdir.mark_done("world_model", result)


def load_world_model(setting: Setting, video: LatentVideo) -> VideoWorldModel:
    """The averaged weights in their role."""
    section = setting.config.world_model
    graphdef, params = load_params(setting)
    return VideoWorldModel(
        graphdef=graphdef,
        params=params,
        video=video,
        history=section.history,
        steps=section.sampling_steps,
        image_size=setting.env.image_size,
        prediction=section.prediction,
    )


def load_params(setting: Setting) -> tuple[Any, Any]:
    """(graphdef, averaged weights) of the trained network."""
    graphdef, params = training.abstract(setting.mesh, lambda: _network(setting))
    template = training.state_template(setting.mesh, params, _optimizer(setting), averaged=True)
    return graphdef, training.load_params(setting, "world_model", template)


def _network(setting: Setting) -> STDiT:
    return world_model_network(setting.config, setting.env)


def _optimizer(setting: Setting) -> Any:
    section = setting.config.world_model
    steps = section.pretrain_steps + section.align_steps
    return training.optimizer("world_model", section, steps, stacked="pairs")


def _corpus(setting: Setting) -> Corpus:
    """Latents and normalized actions of every source of this run's own episodes."""
    corpus: Corpus = {}
    for name, stage in recorded(setting).items():
        episodes = setting.episodes(name, stage)
        latents = load_arrays(setting.workdir.data(name) / "latents.npz", "autoencoder")
        corpus[name] = {
            "latents_ETHWC": jnp.asarray(latents["latents_BThwc"]),
            "actions_ETA": normalized_actions(setting, episodes),
        }
    return corpus


def _stream(setting: Setting, corpus: Corpus) -> training.Stream:
    """Windows of frames and actions from disk, and the frozen autoencoder that encodes them.

    They take the place of demonstrations and play; rollouts come from memory.
    """
    section, chunk = setting.config.world_model, setting.env.chunk
    spec = WindowSpec(section.history + chunk, chunk, future=True, past_actions=chunk)
    loader = setting.loader("world model data", spec, section.batch_size, clip=False)
    return training.Stream(loader, {"video": load_video(setting), **corpus})


def normalized_actions(setting: Setting, episodes: Mapping[str, Any]) -> jax.Array:
    """Executed actions as the world model is told them, float32 [E, T - 1, A].

    Those of a policy are normalized already. Others may lie outside [-1, 1], which is kept: play
    moves in ways that demonstrations do not.
    """
    if "actions_BNKA" in episodes:
        return jnp.asarray(rearrange(episodes["actions_BNKA"], "b n k a -> b (n k) a"))
    actions = setting.statistics.normalize(episodes["actions_BTA"], clip=False)
    return jnp.asarray(actions, jnp.float32)


def _loss(
    graphdef: Any,
    setting: Setting,
    params: Any,
    corpus: Any,
    key: jax.Array,
    step: jax.Array,
) -> tuple[jax.Array, Mapping[str, jax.Array]]:
    """Rectified-flow loss on windows of history + chunk; some histories are self-predicted."""
    chunk = setting.env.chunk
    window_key, imagine_key, flow_key = jax.random.split(key, 3)
    windows = _windows if "video" not in corpus else _disk_windows
    latents, actions, early_B = windows(setting, corpus, window_key, step)
    latents, actions = training.spread(setting.mesh, (latents, actions))
    network = nnx.merge(graphdef, params)
    history, target = latents[:, chunk:-chunk], latents[:, -chunk:]
    if _forced_rows(setting):
        forced = _self_forced(network, setting, latents, actions[:, :chunk], history, imagine_key)
        history = jnp.where(early_B.reshape(-1, *[1] * (forced.ndim - 1)), history, forced)
    loss = _flow_loss(network, setting, history, target, actions[:, chunk:], flow_key)
    return loss, {}


def _flow_loss(
    network: STDiT,
    setting: Setting,
    history_BThwc: jax.Array,
    target_BKhwc: jax.Array,
    actions_BKA: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """Mean squared error of the predicted chunk at a random noise level, history lightly noised."""
    section, size = setting.config.world_model, setting.env.image_size
    time_key, history_key, start_key = jax.random.split(key, 3)
    t_B = rectified_flow.sample_timesteps(time_key, len(target_BKhwc), section.timestep_shift)
    history_t = jnp.full(len(t_B), rectified_flow.MAX_TIMESTEP * section.history_noise)
    tremor = jax.random.normal(history_key, history_BThwc.shape)
    history = rectified_flow.add_noise(history_BThwc, tremor, history_t)
    start = jax.random.normal(start_key, target_BKhwc.shape)
    if section.prediction == "residual":
        start = rectified_flow.residual_start(start, history[:, -1])
    noisy = rectified_flow.add_noise(target_BKhwc, start, t_B)
    window = jnp.concatenate([history, noisy], axis=1)
    mask_BT = jnp.broadcast_to(jnp.arange(window.shape[1]) >= section.history, window.shape[:2])
    output = network(window, t_B, condition(network, actions_BKA), mask_BT, size, size)
    # Behind the latents' channels the released form has an untrained sigma.
    said = output[:, section.history :, ..., : target_BKhwc.shape[-1]]
    return rectified_flow.chunk_loss(
        said, target_BKhwc, start, history[:, -1], section.prediction
    ).mean()


def _windows(
    setting: Setting, corpus: Corpus, key: jax.Array, step: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """latents [B, chunk + history + chunk, h, w, c], actions [B, 2 * chunk, A], early bool [B].

    The first chunk leads to the end of the history; self-forcing predicts it, but for early rows,
    before which there is none.
    """
    section = setting.config.world_model
    aligning = step >= section.pretrain_steps
    rollout_share = jnp.where(aligning, section.align_rollout_fraction, 0.0)
    demo_share = jnp.where(aligning, 0.0, section.demo_fraction)
    source_key, *keys = jax.random.split(key, 4)
    u_B = jax.random.uniform(source_key, (section.batch_size,))
    batches = [_sample(setting, corpus[name], k) for name, k in zip(SOURCES, keys, strict=True)]
    demos, play, rollouts = batches

    def pick(demo: jax.Array, play: jax.Array, rollout: jax.Array) -> jax.Array:
        u = u_B.reshape(-1, *[1] * (play.ndim - 1))
        rest = jnp.where(u > 1.0 - demo_share, demo, play)
        return jnp.where(u < rollout_share, rollout, rest)

    latents, actions = jax.tree.map(pick, demos, play, rollouts)
    return latents, actions, jnp.zeros(section.batch_size, bool)


def _disk_windows(
    setting: Setting, batch: Any, key: jax.Array, step: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As `_windows`, of a batch from disk; in alignment some rows are rollouts."""
    section = setting.config.world_model
    encode_key, source_key, rollout_key = jax.random.split(key, 3)
    latents = batch["video"].encode(batch["frames_BTHWC"], encode_key)
    actions, early_B = batch["actions_BKA"], batch["start_B"] < setting.env.chunk
    if "rollouts" not in batch:
        return latents, actions, early_B
    aligning = step >= section.pretrain_steps
    share = jnp.where(aligning, section.align_rollout_fraction, 0.0)
    rollout_B = jax.random.uniform(source_key, early_B.shape) < share

    def pick(rollout: jax.Array, disk: jax.Array) -> jax.Array:
        return jnp.where(rollout_B.reshape(-1, *[1] * (disk.ndim - 1)), rollout, disk)

    rollouts = _sample(setting, batch["rollouts"], rollout_key)
    latents, actions = jax.tree.map(pick, rollouts, (latents, actions))
    return latents, actions, early_B & ~rollout_B


def _sample(
    setting: Setting, source: dict[str, jax.Array], key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """One window per row from one source, its chunk starting at any step.

    Rows that will be self-forced start late enough for their history to be a whole chunk's result.
    Before an episode's beginning stand copies of its first frame.
    """
    section, env = setting.config.world_model, setting.env
    episode_key, start_key = jax.random.split(key)
    shape = (section.batch_size, 1)
    episode_B1 = jax.random.randint(episode_key, shape, 0, source["actions_ETA"].shape[0])
    forced_B1 = jnp.arange(section.batch_size)[:, None] < _forced_rows(setting)
    earliest_B1 = jnp.where(forced_B1, env.chunk, 0)
    start_B1 = jax.random.randint(start_key, shape, earliest_B1, env.horizon - env.chunk + 1)
    # Frame `start` ends the history; the targets are the frames start + 1 .. start + chunk.
    frame_T = jnp.arange(-section.history - env.chunk + 1, env.chunk + 1)
    action_T = jnp.arange(-env.chunk, env.chunk)
    latents = source["latents_ETHWC"][episode_B1, jnp.maximum(start_B1 + frame_T, 0)]
    return latents, source["actions_ETA"][episode_B1, jnp.maximum(start_B1 + action_T, 0)]


def _forced_rows(setting: Setting) -> int:
    section = setting.config.world_model
    return int(section.self_forcing * section.batch_size)


def _self_forced(
    network: STDiT,
    setting: Setting,
    latents: jax.Array,
    actions_BKA: jax.Array,
    history: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """Replaces the history of the first rows by the model's own prediction of it, made in one step.

    In imagination every chunk but the first continues a prediction; this shows the model how its
    own predictions look.
    """
    count = _forced_rows(setting)
    length = setting.config.world_model.history
    predicted = predict_chunk(
        network,
        latents[:count, :length],
        actions_BKA[:count],
        key,
        1,
        setting.env.image_size,
        setting.config.world_model.prediction,
    )
    forced = jax.lax.stop_gradient(predicted[:, -length:])
    return jnp.concatenate([forced, history[count:]])
