"""Runs our network and the PyTorch one on the same random input, in float32, and compares.

Both models are in memory at once: about 8 bytes per parameter. The PyTorch side reads the original
files, ours reads the converted checkpoint, so everything between the two is tested.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from wmpo_jax.conversion import reference_models, reference_stdit
from wmpo_jax.conversion.foreign import ForeignWeights
from wmpo_jax.conversion.store import Store
from wmpo_jax.conversion.torch_files import to_torch

BATCH = 2
PROMPT_TOKENS = 12
Weights = dict[str, torch.Tensor]


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
    foreign = ForeignWeights(theirs)
    dead = ours.kind.dead(ours.config).keys() - {"rope.freqs"}
    weights = {n: to_torch(foreign.read(n)).float() for n in foreign.infos.keys() - dead}
    network = nnx.merge(*ours.params(jnp.float32))
    run = RUNS[ours.kind.name]
    with jax.default_matmul_precision("highest"), torch.no_grad():
        return run(network, weights, np.random.default_rng(0))


def _policy(network, weights: Weights, rng: np.random.Generator):
    config = network.config
    size = config.image_size
    pixels_BCHW = rng.normal(size=(BATCH, 6, size, size)).astype(np.float32)
    prompt_BL = rng.integers(3, config.action_token_begin, (BATCH, PROMPT_TOKENS))
    ours = nnx.jit(lambda m, *x: m(*x))(network, np.moveaxis(pixels_BCHW, 1, -1), prompt_BL)
    theirs = reference_models.policy_logits(
        weights, config, torch.from_numpy(pixels_BCHW), torch.from_numpy(prompt_BL)
    )
    return np.asarray(ours).reshape(theirs.shape), theirs.numpy()


def _world_model(network, weights: Weights, rng: np.random.Generator):
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


def _autoencoder(network, weights: Weights, rng: np.random.Generator):
    config = network.config
    side = 8 * config.downsampling
    images_BCHW = rng.uniform(-1, 1, (BATCH, 3, side, side)).astype(np.float32)

    def both(model, images):
        mean, logvar = model.encode(images)
        return mean, logvar, model.decode(mean * config.scaling_factor)

    model = reference_models.autoencoder(weights, config)
    posterior = model.encode(torch.from_numpy(images_BCHW)).latent_dist
    decoded = model.decode(posterior.mean).sample
    ours = nnx.jit(both)(network, np.moveaxis(images_BCHW, 1, -1))
    theirs = [posterior.mean, posterior.logvar, decoded]
    return (
        np.concatenate([np.moveaxis(np.asarray(x), -1, 1).ravel() for x in ours]),
        np.concatenate([x.numpy().ravel() for x in theirs]),
    )


def _reward(network, weights: Weights, rng: np.random.Generator):
    config = network.config
    shape = (BATCH, config.num_frames, config.image_size, config.image_size, 3)
    pixels_BTHWC = rng.normal(size=shape).astype(np.float32)
    model = reference_models.videomae(weights, config)
    theirs = model(torch.from_numpy(np.moveaxis(pixels_BTHWC, -1, 2).copy())).logits
    ours = nnx.jit(lambda m, x: m(x))(network, pixels_BTHWC)
    return np.asarray(ours), theirs.numpy()


Run = Callable[[nnx.Module, Weights, np.random.Generator], tuple[np.ndarray, np.ndarray]]
RUNS: dict[str, Run] = {
    "policy": _policy,
    "world_model": _world_model,
    "autoencoder": _autoencoder,
    "reward": _reward,
}
