"""`--verify` runs both frameworks: it says so when they agree, and shows it when they do not."""

import re

import pytest
from safetensors.numpy import load_file, save_file

from tests.conversion import synthetic
from wmpo_jax import convert
from wmpo_jax.conversion import store, verify
from wmpo_jax.conversion.kinds import KINDS

# Float rounding of two frameworks, relative to the largest output.
ROUNDING = 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_both_frameworks_agree_both_ways(kind, tmp_path, capsys):
    weights = synthetic.tensors(kind)
    source = synthetic.write_folder(tmp_path / "source", kind, weights, shards=1)
    ours, back = tmp_path / "ours", tmp_path / "back"
    for flags in (
        ["import", f"--kind={kind}", f"--source={source}", f"--target={ours}"],
        ["export", f"--source={ours}", f"--target={back}"],
    ):
        assert convert.main([*flags, "--verify"]) == 0
        said = capsys.readouterr().out
        numbers = re.search(r"largest difference to PyTorch (\S+), largest output (\S+)", said)
        assert numbers, said
        assert float(numbers[1]) < ROUNDING * float(numbers[2])


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("policy", "language_model.model.layers.1.self_attn.q_proj.weight"),
        ("policy", "vision_backbone.fused_featurizer.blocks.1.norm2.bias"),
        ("world_model", "temporal_blocks.2.attn.k_norm.weight"),
        ("autoencoder", "decoder.up_blocks.1.resnets.0.conv1.weight"),
        ("reward", "videomae.encoder.layer.0.attention.attention.v_bias"),
    ],
)
def test_a_single_changed_tensor_shows(kind, name, tmp_path):
    weights = synthetic.tensors(kind)
    source = synthetic.write_folder(tmp_path / "source", kind, weights, shards=1)
    ours = tmp_path / "ours"
    flags = ["import", f"--kind={kind}", f"--source={source}", f"--target={ours}"]
    assert convert.main(flags) == 0
    file = next(source.glob("*.safetensors"))
    save_file(load_file(file) | {name: weights[name][::-1].copy()}, file)
    ours_out, theirs_out = verify.outputs(store.Store(ours), source)
    assert abs(ours_out - theirs_out).max() > 100 * ROUNDING * abs(theirs_out).max()
