"""Runs our network and the PyTorch one on the same random input, in float32, and compares.

Both models are in memory at once: about 8 bytes per parameter. The PyTorch side reads the original
files and config, ours reads the converted checkpoint, so everything between the two is tested.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from wmpo_jax.conversion import reference_models, reference_stdit
from wmpo_jax.conversion.documents import read_settings
from wmpo_jax.conversion.importing import open_original
from wmpo_jax.conversion.sources import locate
from wmpo_jax.conversion.store import ASSETS, Store
from wmpo_jax.conversion.torch_files import to_torch
from wmpo_jax.models.stdit.weights import ROTARY_NAME
from wmpo_jax.runtime.errors import UserError

BATCH = 2
PROMPT_TOKENS = 12
Weights = dict[str, torch.Tensor]
Json = Mapping[str, Any]


def compare(ours: Store, theirs: Path) -> str:
    """One line: the largest difference between the outputs, and how large the outputs are."""
    ours_out, theirs_out = outputs(ours, theirs)
    difference = np.abs(ours_out - theirs_out).max()
    return (
        f"verified {ours.kind.name} on random inputs in float32: largest difference to PyTorch "
        f"{difference:.2e}, largest output {np.abs(theirs_out).max():.2e}"
    )


def outputs(ours: Store, theirs: Path) -> tuple[np.ndarray, np.ndarray]:
    """What our network and PyTorch's make of the same input, in one layout."""
    found, foreign = locate(theirs, ours.kind.name), open_original(ours.kind, theirs)
    settings = read_settings(found.folder or ours.folder / ASSETS)  # a file alone has none
    shapes = {name: info.shape for name, info in foreign.infos.items()}
    config = ours.kind.config(shapes, settings)
    if config != ours.config:
        names = [f.name for f in dataclasses.fields(config)]
        differ = [n for n in names if getattr(config, n) != getattr(ours.config, n)]
        raise UserError(
            f"{ours.folder} has another {' and '.join(differ)} than {theirs} says: import it again."
        )
    unread = ours.kind.dead(config).keys() | ours.kind.derived(config).keys()
    names = foreign.infos.keys() - unread | foreign.infos.keys() & {ROTARY_NAME}
    weights = {name: to_torch(foreign.read(name)).float() for name in names}
    network = nnx.merge(*ours.params(jnp.float32))
    run = RUNS[ours.kind.name]
    with jax.default_matmul_precision("highest"), torch.no_grad():
        return run(network, weights, settings, np.random.default_rng(0))


def _policy(network, weights: Weights, settings: Json, rng: np.random.Generator):
    config = network.config
    size = config.image_size
    pixels_BCHW = rng.normal(size=(BATCH, 6, size, size)).astype(np.float32)
    prompt_BL = rng.integers(3, config.action_token_begin, (BATCH, PROMPT_TOKENS))
    ours = nnx.jit(lambda m, *x: m(*x))(network, np.moveaxis(pixels_BCHW, 1, -1), prompt_BL)
    theirs = reference_models.policy_logits(
        weights, config, torch.from_numpy(pixels_BCHW), torch.from_numpy(prompt_BL)
    )
    return np.asarray(ours).reshape(theirs.shape), theirs.numpy()


def _world_model(network, weights: Weights, settings: Json, rng: np.random.Generator):
    config = network.config
    size, pixels = 8, 256
    latents = rng.normal(size=(BATCH, config.frames, size, size, config.in_channels))
    actions = rng.uniform(-1, 1, (BATCH, config.chunk, config.action_dim))
    mask_BT = np.broadcast_to(np.arange(config.frames) >= config.history, latents.shape[:2])
    inputs = [array.astype(np.float32) for array in (latents, np.array([300.0, 990.0]), actions)]
    forward = nnx.jit(lambda m, *x: m(*x, pixels, pixels))
    ours = forward(network, *inputs, mask_BT)
    x, t, a = map(torch.from_numpy, (np.moveaxis(inputs[0], -1, 1).copy(), *inputs[1:]))
    theirs = reference_stdit.forward(
        weights, config, x, t, a, torch.from_numpy(mask_BT.copy()), pixels, pixels
    )
    return np.moveaxis(np.asarray(ours), -1, 1), theirs.numpy()


def _autoencoder(network, weights: Weights, settings: Json, rng: np.random.Generator):
    config = network.config
    side = 8 * config.downsampling
    images_BCHW = rng.uniform(-1, 1, (BATCH, 3, side, side)).astype(np.float32)

    latents_BCHW = rng.normal(size=(BATCH, config.latent_channels, 8, 8)).astype(np.float32)

    def both(model, images, latents):
        return *model.encode(images), model.decode(latents)

    model = reference_models.autoencoder(weights, config, settings)
    posterior = model.encode(torch.from_numpy(images_BCHW)).latent_dist
    decoded = model.decode(torch.from_numpy(latents_BCHW) / model.config.scaling_factor).sample
    ours = nnx.jit(both)(network, *(np.moveaxis(x, 1, -1) for x in (images_BCHW, latents_BCHW)))
    theirs = [posterior.mean, posterior.logvar, decoded]
    return (
        np.concatenate([np.moveaxis(np.asarray(x), -1, 1).ravel() for x in ours]),
        np.concatenate([x.numpy().ravel() for x in theirs]),
    )


def _reward(network, weights: Weights, settings: Json, rng: np.random.Generator):
    config = network.config
    shape = (BATCH, config.num_frames, config.image_size, config.image_size, 3)
    pixels_BTHWC = rng.normal(size=shape).astype(np.float32)
    model = reference_models.videomae(weights, config, settings)
    theirs = model(torch.from_numpy(np.moveaxis(pixels_BTHWC, -1, 2).copy())).logits
    ours = nnx.jit(lambda m, x: m(x))(network, pixels_BTHWC)
    return np.asarray(ours), theirs.numpy()


Run = Callable[[nnx.Module, Weights, Json, np.random.Generator], tuple[np.ndarray, np.ndarray]]
RUNS: dict[str, Run] = {
    "policy": _policy,
    "world_model": _world_model,
    "autoencoder": _autoencoder,
    "reward": _reward,
}
