"""A state dict in memory goes in and out by the same tables as files do."""

import dataclasses

import numpy as np
import pytest
from flax import nnx

from tests.conversion import synthetic
from wmpo_jax.conversion import from_state_dict, to_state_dict
from wmpo_jax.conversion.kinds import KINDS
from wmpo_jax.models.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from wmpo_jax.models.stdit import STDiT, STDiTConfig
from wmpo_jax.models.videomae import VideoMAE, VideoMAEConfig
from wmpo_jax.models.vla import VLA, VLAConfig
from wmpo_jax.runtime.errors import UserError

TINY = {
    "policy": (VLA, VLAConfig.tiny(action_dim=3, chunk=4)),
    "world_model": (STDiT, STDiTConfig.tiny(action_dim=3, chunk=3, history=2)),
    "autoencoder": (AutoencoderKL, AutoencoderKLConfig.tiny()),
    "reward": (VideoMAE, VideoMAEConfig.tiny(num_labels=4)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_networks_of_any_size_go_out_and_come_back(kind):
    network, config = TINY[kind]
    params = nnx.state(network(config, rngs=nnx.Rngs(0)), nnx.Param)
    tensors = to_state_dict(kind, params, config)
    assert {name: array.shape for name, array in tensors.items()} == KINDS[kind].shapes(config)
    again = from_state_dict(kind, tensors, config)
    expected = dict(nnx.to_flat_state(params))
    found = dict(nnx.to_flat_state(again))
    assert found.keys() == expected.keys()
    for path, variable in expected.items():
        np.testing.assert_array_equal(found[path][...], variable[...])


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_that_nothing_reads_may_be_there_or_not(kind):
    weights, config = synthetic.tensors(kind), synthetic.CONFIGS[kind]
    bare = {name: weights[name] for name in KINDS[kind].shapes(config)}
    whole, without = (from_state_dict(kind, x, config) for x in (weights, bare))
    for a, b in zip(nnx.to_flat_state(whole), nnx.to_flat_state(without), strict=True):
        np.testing.assert_array_equal(a[1][...], b[1][...])


@pytest.mark.parametrize("kind", KINDS)
def test_mistakes_are_listed(kind):
    config = synthetic.CONFIGS[kind]
    weights = synthetic.tensors(kind)
    lost, long = list(KINDS[kind].shapes(config))[:2]
    wrong = weights | {long: np.zeros(7, np.float32), "surprise": np.zeros(1, np.float32)}
    del wrong[lost]
    with pytest.raises(UserError) as error:
        from_state_dict(kind, wrong, config)
    message = str(error.value)
    assert f"{lost}: expected" in message and "found nothing" in message
    assert f"{long}: expected" in message and "found float32[7]" in message
    assert "surprise: expected nothing, found float32[1]" in message


def test_other_rotary_frequencies_are_refused():
    weights = synthetic.tensors("world_model")
    weights["rope.freqs"] = weights["rope.freqs"] * np.float32(2)
    with pytest.raises(UserError, match="rotary frequencies"):
        from_state_dict("world_model", weights, synthetic.CONFIGS["world_model"])


def test_a_config_of_another_size_does_not_fit():
    wider = dataclasses.replace(synthetic.CONFIGS["autoencoder"], latent_channels=8)
    with pytest.raises(UserError, match="expected float32"):
        from_state_dict("autoencoder", synthetic.tensors("autoencoder"), wider)
