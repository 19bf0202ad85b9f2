"""Stage 4a: the per-frame autoencoder, and the latents of every recorded frame."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from wmpo_jax.agents.autoencoder import FrameAutoencoder, psnr
from wmpo_jax.assembly import agents, networks
from wmpo_jax.models.autoencoder_kl import to_model_range
from wmpo_jax.runtime import sharding
from wmpo_jax.runtime.files import save_arrays
from wmpo_jax.runtime.mesh import fetch, spread_padded, spread_part
from wmpo_jax.stages.context import RunContext
from wmpo_jax.stages.recorded import SOURCES, recorded
from wmpo_jax.training import autoencoder
from wmpo_jax.training.fit import Stream, fit
from wmpo_jax.training.state import initial_state

ENCODE_BATCH = 256  # episodes
SAMPLE_BATCHES = 4  # of a dataset on disk, to measure the latents' scale and the reconstruction


def run(context: RunContext) -> dict[str, Any]:
    """Trains on all recorded frames, then writes data/<source>/latents.npz.

    Of a dataset on disk no latents are written: the world model encodes its windows itself. An
    imported autoencoder that is not trained (0 steps) keeps its scaling factor.
    """
    config = agents.autoencoder_training(context.config)
    frames = _recorded_frames(context)
    graphdef, params = networks.create(
        context.config,
        context.mesh,
        "autoencoder",
        lambda: agents.autoencoder_network(context.config),
    )
    data = {name: jnp.asarray(values) for name, values in frames.items()}
    stream = _stream(context, config.batch_size)
    sources = tuple(SOURCES) if stream else tuple(frames)
    state = fit(
        context.loop_files("autoencoder"),
        context.mesh,
        initial_state(context.mesh, params, autoencoder.optimizer(config)),
        autoencoder.step_function(
            context.mesh, graphdef, config, sources, context.key("autoencoder")
        ),
        stream or data,
        config.optimizer.steps,
        context.config.autoencoder.checkpoint_every,
    )
    if stream:
        calibration = held = _samples(context, stream)
    else:
        calibration, held = data.get("play", data["demos"])[:64], data["rollouts"]
    store = networks.checkpoint(context.config, "autoencoder")
    if store is not None and config.optimizer.steps == 0:
        scale = store.config.scaling_factor
    else:
        scale = _unit_scale(graphdef, state.params, calibration)
    model = agents.autoencoder(context.config, scale, state.params)
    reconstruction = _reconstruction_psnr(model, held)
    for name, values in frames.items():
        if name != "play" or not networks.latents_are_pixels(context.config):
            write_latents(context, model, name, values)  # else the world model encodes them itself
    return {"step": int(state.step), "scaling_factor": scale, "psnr": reconstruction}


def write_latents(
    context: RunContext, model: FrameAutoencoder, name: str, frames_ETHWC: np.ndarray
) -> None:
    """Writes data/<name>/latents.npz."""
    latents = _encode_all(context.mesh, model, frames_ETHWC, context.key(f"latents of {name}"))
    save_arrays(context.workdir.data(name) / "latents.npz", {"latents_BThwc": latents})


def _recorded_frames(context: RunContext) -> dict[str, np.ndarray]:
    sources = recorded(context)
    return {name: context.episodes(name, stage)["frames_BTHWC"] for name, stage in sources.items()}


def _stream(context: RunContext, batch_size: int) -> Stream | None:
    if context.mixture is None:
        return None
    return context.stream("autoencoder data", autoencoder.WINDOW, batch_size, clip=False)


def _samples(context: RunContext, stream: Stream) -> np.ndarray:
    """Frames of the first batches, all of them on every host; uint8 [X, T, H, W, 3]."""
    loader = stream.loader
    first = itertools.islice(loader.iterate(0), SAMPLE_BATCHES)
    batches = [fetch(spread_part(context.mesh, batch, loader.batch_size)) for batch in first]
    return np.concatenate([batch["frames_BTHWC"] for batch in batches])


def _unit_scale(graphdef: Any, params: Any, frames_BTHWC: jax.Array | np.ndarray) -> float:
    """What makes the standard deviation of the latents 1."""
    flat = frames_BTHWC.reshape(-1, *frames_BTHWC.shape[2:])
    encode = jax.jit(lambda params, x: nnx.merge(graphdef, params).encode(to_model_range(x))[0])
    return float(1.0 / np.std(fetch(encode(params, flat))))


def _reconstruction_psnr(
    autoencoder: FrameAutoencoder, frames_BTHWC: jax.Array | np.ndarray
) -> float:
    """Of frames of the policy's rollouts; the ceiling for any imagined frame."""
    frames = np.asarray(frames_BTHWC[:32])
    trip = jax.jit(lambda model, x, key: model.decode(model.encode(x, key)))
    again = fetch(trip(autoencoder, frames, jax.random.key(0)))
    error = (frames.astype(np.float32) - again.astype(np.float32)) / 127.5
    # At most 100 dB: where latents are pixels, nothing is lost.
    return float(psnr(max(np.square(error).mean(), 4e-10)))


def _encode_all(
    mesh: Mesh, autoencoder: FrameAutoencoder, frames_ETHWC: np.ndarray, key: jax.Array
) -> np.ndarray:
    """float32 latents of all episodes, in batches of one shape spread over the devices."""
    encode = sharding.compiled(mesh, FrameAutoencoder.encode)
    parts = []
    for start in range(0, len(frames_ETHWC), ENCODE_BATCH):
        rows = np.arange(start, start + ENCODE_BATCH).clip(max=len(frames_ETHWC) - 1)
        frames = spread_padded(mesh, frames_ETHWC[rows])
        latents = encode(autoencoder, frames, jax.random.fold_in(key, start))
        parts.append(fetch(latents)[: len(rows)])
    return np.concatenate(parts)[: len(frames_ETHWC)]
