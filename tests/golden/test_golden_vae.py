"""The autoencoder against diffusers 0.33 (`vae_*.safetensors`): encode, decode, video path."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.golden.loader import golden_files, load
from wmpo_jax.conversion import from_state_dict, to_state_dict
from wmpo_jax.conversion.kinds import KINDS
from wmpo_jax.models import autoencoder_kl as vae

CLOSE = {"rtol": 0, "atol": 5e-5}


class Golden(NamedTuple):
    tensors: dict[str, np.ndarray]
    metadata: dict[str, Any]
    foreign: dict[str, np.ndarray]
    model: vae.AutoencoderKL


def config_of(metadata) -> vae.AutoencoderKLConfig:
    config = metadata["config"]
    return vae.AutoencoderKLConfig(
        block_out_channels=tuple(config["block_out_channels"]),
        layers_per_block=config["layers_per_block"],
        latent_channels=config["latent_channels"],
        norm_num_groups=config["norm_num_groups"],
        scaling_factor=config["scaling_factor"],
        mid_attention=config["mid_block_add_attention"],
    )


@pytest.fixture(scope="module", params=golden_files("vae"), ids=lambda path: path.stem)
def golden(request):
    tensors, metadata = load(request.param)
    foreign = {k: v for k, v in tensors.items() if not k.startswith(("in.", "out."))}
    config = config_of(metadata)
    graphdef, _ = KINDS["autoencoder"].abstract(config)
    model = nnx.merge(graphdef, from_state_dict("autoencoder", foreign, config))
    with jax.default_matmul_precision("highest"):
        yield Golden(tensors, metadata, foreign, model)


def last(array: np.ndarray) -> jax.Array:
    """Channels second -> channels last."""
    return jnp.asarray(np.moveaxis(array, 1, -1))


def test_golden_encode(golden):
    tensors, model = golden.tensors, golden.model
    images = last(tensors["in.image"])
    before = jax.jit(lambda x: model.encoder(x))(images)
    np.testing.assert_allclose(before, last(tensors["out.encode.h_before_quant_conv"]), **CLOSE)
    mean, logvar = jax.jit(model.encode)(images)
    np.testing.assert_allclose(mean, last(tensors["out.encode.mean"]), **CLOSE)
    np.testing.assert_allclose(logvar, last(tensors["out.encode.logvar"]), **CLOSE)
    np.testing.assert_allclose(jnp.exp(0.5 * logvar), last(tensors["out.encode.std"]), **CLOSE)
    their_mean, their_logvar = np.split(last(tensors["out.encode.moments"]), 2, axis=-1)
    np.testing.assert_allclose(mean, their_mean, **CLOSE)
    np.testing.assert_allclose(logvar, their_logvar.clip(-30, 20), **CLOSE)
    kl = vae.kl_divergence(mean, logvar)
    np.testing.assert_allclose(kl, tensors["out.encode.kl"], rtol=1e-5)


def test_golden_decode(golden):
    tensors, model = golden.tensors, golden.model
    scaled = last(tensors["in.latent"]) * model.config.scaling_factor
    images = jax.jit(model.decode)(scaled)
    np.testing.assert_allclose(images, last(tensors["out.decode.sample"]), **CLOSE)


def test_golden_video(golden):
    tensors, model = golden.tensors, golden.model
    video_BTHWC = last(tensors["in.video"])
    frames = video_BTHWC.reshape(-1, *video_BTHWC.shape[2:])
    z = model.scale_latents(*jax.jit(model.encode)(frames), last(tensors["in.noise"]))
    z_BTHWC = z.reshape(*video_BTHWC.shape[:2], *z.shape[1:])
    np.testing.assert_allclose(z_BTHWC, last(tensors["out.video.z"]), **CLOSE)
    decoded = jax.jit(model.decode)(z).reshape(video_BTHWC.shape)
    np.testing.assert_allclose(decoded, last(tensors["out.video.decode"]), **CLOSE)
    expected = tensors["out.video.uint8_BTHWC"].astype(int)
    pixels = vae.decode_frames(
        model, last(tensors["out.video.z"]), micro_batch=golden.metadata["micro_batch_size"]
    )
    difference = np.abs(np.asarray(pixels, int) - expected)
    assert difference.max() <= 1 and (difference > 0).sum() <= max(3, 1e-3 * difference.size)


def test_golden_weights_survive_the_round_trip(golden):
    back = to_state_dict("autoencoder", nnx.state(golden.model), golden.model.config)
    assert back.keys() == golden.foreign.keys()
    for name, array in golden.foreign.items():
        np.testing.assert_array_equal(back[name], array)
