"""Stage 4a: the per-frame autoencoder, and the latents of every recorded frame."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from wmpo_jax.data.loading import WindowSpec
from wmpo_jax.models.autoencoder_kl import (
    AutoencoderKL,
    kl_divergence,
    to_model_range,
)
from wmpo_jax.runtime import sharding
from wmpo_jax.runtime.files import save_arrays
from wmpo_jax.runtime.mesh import fetch, spread_padded, spread_part
from wmpo_jax.stages import networks, training
from wmpo_jax.stages.agents import LatentVideo
from wmpo_jax.stages.setting import Setting

SOURCES = {"demos": "demos", "play": "demos", "rollouts": "collect"}  # data -> stage that made it
ENCODE_BATCH = 256  # episodes
SAMPLE_BATCHES = 4  # of a dataset on disk, to measure the latents' scale and the reconstruction


def run(setting: Setting) -> None:
    """Trains on all recorded frames, then writes data/<source>/latents.npz.

    Of a dataset on disk no latents are written: the world model encodes its windows itself. An
    imported autoencoder that is not trained (0 steps) keeps its scaling factor.
    """
    started = time.monotonic()
    section = setting.config.autoencoder
    frames = _recorded_frames(setting)
    graphdef, params = networks.create(setting, "autoencoder", lambda: _network(setting, 1.0))
    optimizer = _optimizer(setting)
    step_fn = training.make_step(
        setting.mesh,
        lambda params, data, key, _: _loss(graphdef, setting, params, data, key),
        optimizer,
        setting.key("autoencoder"),
    )
    data = {name: jnp.asarray(values) for name, values in frames.items()}
    stream = _stream(setting)
    state = training.fit(
        "autoencoder",
        training.initial_state(setting.mesh, params, optimizer),
        step_fn,
        stream or data,
        section.steps,
        section.checkpoint_every,
        setting,
    )
    if stream:
        calibration = held = _samples(setting, stream)
    else:
        calibration, held = data["play"][:64], data["rollouts"]
    store = networks.checkpoint(setting.config, "autoencoder")
    if store is not None and section.steps == 0:
        scale = store.config.scaling_factor
    else:
        scale = _unit_scale(graphdef, state.params, calibration)
    video = LatentVideo(
        state.params, training.abstract(setting.mesh, lambda: _network(setting, scale))[0]
    )
    psnr = _reconstruction_psnr(video, held)
    for name, values in frames.items():
        latents = _encode_all(setting.mesh, video, values, setting.key(f"latents of {name}"))
        save_arrays(setting.workdir.data(name) / "latents.npz", {"latents_BThwc": latents})
    seconds = time.monotonic() - started
    result = {"seconds": seconds, "scaling_factor": scale, "psnr": psnr}
    setting.workdir.mark_done("autoencoder", result)


def _recorded_frames(setting: Setting) -> dict[str, np.ndarray]:
    sources = recorded(setting)
    return {name: setting.episodes(name, stage)["frames_BTHWC"] for name, stage in sources.items()}


def recorded(setting: Setting) -> dict[str, str]:
    """Data of this run's own episodes -> the stage that made it.

    With a dataset on disk that takes the place of demonstrations and play these are the rollouts
    in the environment, if there is one.
    """
    if setting.mixture is None:
        return SOURCES
    return {"rollouts": SOURCES["rollouts"]} if setting.config.task else {}


def _stream(setting: Setting) -> training.Stream | None:
    if setting.mixture is None:
        return None
    spec = WindowSpec(history=1, chunk=1, future=False)
    batch_size = setting.config.autoencoder.batch_size
    return training.Stream(setting.loader("autoencoder data", spec, batch_size, clip=False))


def _samples(setting: Setting, stream: training.Stream) -> np.ndarray:
    """Frames of the first batches, all of them on every host; uint8 [X, T, H, W, 3]."""
    batches = [
        fetch(spread_part(setting.mesh, stream.loader.batch(step), stream.loader.batch_size))
        for step in range(SAMPLE_BATCHES)
    ]
    return np.concatenate([batch["frames_BTHWC"] for batch in batches])


def load_video(setting: Setting) -> LatentVideo:
    """The trained autoencoder with its scaling factor."""
    scale = setting.workdir.result("autoencoder")["scaling_factor"]
    graphdef, params = training.abstract(setting.mesh, lambda: _network(setting, scale))
    template = training.state_template(setting.mesh, params, _optimizer(setting))
    return LatentVideo(training.load_params(setting, "autoencoder", template), graphdef)


def _network(setting: Setting, scale: float) -> AutoencoderKL:
    config = networks.autoencoder_config(setting.config, scale)
    return AutoencoderKL(config, rngs=nnx.Rngs(setting.config.seed))


def _optimizer(setting: Setting) -> Any:
    section = setting.config.autoencoder
    return training.adamw(section.learning_rate, section.steps)


def _loss(
    graphdef: Any, setting: Setting, params: Any, data: dict[str, jax.Array], key: jax.Array
) -> tuple[jax.Array, Mapping[str, jax.Array]]:
    """Mean absolute plus squared error of the reconstruction, and a light KL."""
    section = setting.config.autoencoder
    sample_key, noise_key = jax.random.split(key)
    frames = _sample_frames(data, section.batch_size, sample_key)
    images = to_model_range(training.spread(setting.mesh, frames))
    network = nnx.merge(graphdef, params)
    mean, logvar = network.encode(images)
    error = network.decode(network.sample_posterior(mean, logvar, noise_key)) - images
    square = jnp.square(error).mean()
    divergence = kl_divergence(mean, logvar).mean()
    loss = square + 0.2 * jnp.abs(error).mean() + section.kl_weight * divergence
    return loss, {"psnr": _psnr(square), "kl": divergence}


def _sample_frames(data: dict[str, jax.Array], batch: int, key: jax.Array) -> jax.Array:
    """Half of the batch from play, a quarter each from demonstrations and the few rollouts.

    What a stream brings is a batch already.
    """
    if "frames_BTHWC" in data:
        return data["frames_BTHWC"][:, -1]
    picks = []
    for place, name in enumerate(SOURCES):
        count = batch // 2 if name == "play" else batch // 4
        frames = data[name]
        episode_key, time_key = jax.random.split(jax.random.fold_in(key, place))
        episode = jax.random.randint(episode_key, (count,), 0, frames.shape[0])
        moment = jax.random.randint(time_key, (count,), 0, frames.shape[1])
        picks.append(frames[episode, moment])
    return jnp.concatenate(picks)


def _psnr(mean_square: jax.Array) -> jax.Array:
    """In dB, for images in [-1, 1]."""
    return 10.0 * jnp.log10(4.0 / mean_square)


def _unit_scale(graphdef: Any, params: Any, frames_BTHWC: jax.Array | np.ndarray) -> float:
    """What makes the standard deviation of the latents 1."""
    flat = frames_BTHWC.reshape(-1, *frames_BTHWC.shape[2:])
    encode = jax.jit(lambda params, x: nnx.merge(graphdef, params).encode(to_model_range(x))[0])
    return float(1.0 / np.std(fetch(encode(params, flat))))


def _reconstruction_psnr(video: LatentVideo, frames_BTHWC: jax.Array | np.ndarray) -> float:
    """Of frames of the policy's rollouts; the ceiling for any imagined frame."""
    frames = np.asarray(frames_BTHWC[:32])
    trip = jax.jit(lambda video, x, key: video.decode(video.encode(x, key)))
    again = fetch(trip(video, frames, jax.random.key(0)))
    error = (frames.astype(np.float32) - again.astype(np.float32)) / 127.5
    return float(_psnr(np.square(error).mean()))


def _encode_all(
    mesh: Mesh, video: LatentVideo, frames_ETHWC: np.ndarray, key: jax.Array
) -> np.ndarray:
    """float32 latents of all episodes, in batches of one shape spread over the devices."""
    encode = sharding.compiled(mesh, LatentVideo.encode)
    parts = []
    for start in range(0, len(frames_ETHWC), ENCODE_BATCH):
        rows = np.arange(start, start + ENCODE_BATCH).clip(max=len(frames_ETHWC) - 1)
        frames = spread_padded(mesh, frames_ETHWC[rows])
        latents = encode(video, frames, jax.random.fold_in(key, start))
        parts.append(fetch(latents)[: len(rows)])
    return np.concatenate(parts)[: len(frames_ETHWC)]
