"""PyTorch -> Orbax -> PyTorch gives every tensor back, bit for bit, in every format."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from tests.conversion import synthetic
from wmpo_jax import convert
from wmpo_jax.conversion import exporting, from_state_dict, store
from wmpo_jax.conversion.foreign import ForeignWeights
from wmpo_jax.conversion.kinds import KINDS
from wmpo_jax.conversion.torch_files import save_state_dict
from wmpo_jax.runtime.errors import UserError

DTYPES = [np.float32, synthetic.BFLOAT16]


def run(*flags):
    assert convert.main([str(flag) for flag in flags]) == 0


def read_all(path) -> dict[str, np.ndarray]:
    weights = ForeignWeights(path)
    return {name: weights.read(name) for name in weights.infos}


def assert_same_bits(actual, expected):
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype and actual[name].shape == array.shape, name
        assert actual[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_folder_round_trip_is_bitwise(kind, dtype, tmp_path, capsys):
    weights = synthetic.tensors(kind, dtype)
    source = synthetic.write_folder(tmp_path / "source", kind, weights, shards=3)
    ours, back = tmp_path / "ours", tmp_path / "back"
    run("import", f"--kind={kind}", f"--source={source}", f"--target={ours}")
    n_parameters = sum(
        int(np.prod(s)) for s in KINDS[kind].shapes(synthetic.CONFIGS[kind]).values()
    )
    assert f"{n_parameters:,} parameters" in capsys.readouterr().out
    assert store.Store(ours).config == synthetic.CONFIGS[kind]
    run("export", f"--source={ours}", f"--target={back}")
    assert_same_bits(read_all(back), weights)
    for asset in source.glob("*.json"):
        if not asset.name.endswith(".index.json"):
            assert (back / asset.name).read_bytes() == asset.read_bytes()


def test_mixed_dtypes_survive_in_a_stack_of_layers(tmp_path):
    weights = synthetic.tensors("world_model", synthetic.BFLOAT16)
    for name in ("rope.freqs", "spatial_blocks.1.mlp.fc1.weight"):
        weights[name] = weights[name].astype(np.float32) * np.float32(1.0001)
    source = synthetic.write_folder(tmp_path / "source", "world_model", weights, shards=1)
    run("import", "--kind=world_model", f"--source={source}", f"--target={tmp_path / 'ours'}")
    run("export", f"--source={tmp_path / 'ours'}", f"--target={tmp_path / 'back.safetensors'}")
    assert_same_bits(load_file(tmp_path / "back.safetensors"), weights)


@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("kind", "suffix"), [("reward", ".pth"), ("world_model", ".pt")])
def test_torch_files_round_trip(kind, suffix, dtype, tmp_path):
    weights = synthetic.tensors(kind, dtype)
    source, ours = tmp_path / f"source{suffix}", tmp_path / "ours"
    save_state_dict(source, weights)
    run("import", f"--kind={kind}", f"--source={source}", f"--target={ours}")
    run("export", f"--source={ours}", f"--target={tmp_path / f'back{suffix}'}")
    assert_same_bits(read_all(tmp_path / f"back{suffix}"), weights)


@pytest.mark.parametrize("pattern", ["pytorch_model-{:05d}.bin", "model-{:05d}.safetensors"])
def test_trainer_folder_with_shards_in_model(pattern, tmp_path):
    """ColossalAI writes epoch0-global_step5/model/ with an index of .bin or .safetensors shards."""
    weights = synthetic.tensors("world_model", synthetic.BFLOAT16)
    source = tmp_path / "epoch0-global_step5"
    (source / "model").mkdir(parents=True)
    synthetic.write_shards(source / "model", weights, 2, pattern)
    run("import", "--kind=world_model", f"--source={source}", f"--target={tmp_path / 'ours'}")
    run("export", f"--source={tmp_path / 'ours'}", f"--target={tmp_path / 'back'}")
    assert_same_bits(read_all(tmp_path / "back"), weights)


def test_export_in_shards_has_an_index_that_hugging_face_reads(tmp_path):
    weights = synthetic.tensors("policy", synthetic.BFLOAT16)
    source = synthetic.write_folder(tmp_path / "source", "policy", weights, shards=1)
    run("import", "--kind=policy", f"--source={source}", f"--target={tmp_path / 'ours'}")
    back = tmp_path / "back"
    exporting.export_checkpoint(store.Store(tmp_path / "ours"), back, shard_bytes=300_000)
    index = json.loads((back / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in weights.values())
    assert max(file.stat().st_size for file in back.glob("*.safetensors")) < 400_000
    assert_same_bits(read_all(back), weights)


@pytest.mark.parametrize("kind", KINDS)
def test_stored_parameters_are_those_of_the_state_dict_in_memory(kind, tmp_path):
    """With and without files the same tables are read; the stacked world model included."""
    weights, config = synthetic.tensors(kind), synthetic.CONFIGS[kind]
    source = synthetic.write_folder(tmp_path / "source", kind, weights, shards=2)
    run("import", f"--kind={kind}", f"--source={source}", f"--target={tmp_path / 'ours'}")
    graphdef, params = store.Store(tmp_path / "ours").params(jnp.float32)
    expected = from_state_dict(kind, weights, config)
    ours, theirs = dict(nnx.to_flat_state(params)), dict(nnx.to_flat_state(expected))
    assert ours.keys() == theirs.keys()
    for path, variable in theirs.items():
        np.testing.assert_array_equal(ours[path][...], variable[...])
    assert nnx.merge(graphdef, params).config == config


def test_trained_parameters_go_out_in_float32_with_the_unused_weights(tmp_path):
    weights = synthetic.tensors("policy", synthetic.BFLOAT16)
    source = synthetic.write_folder(tmp_path / "source", "policy", weights, shards=1)
    run("import", "--kind=policy", f"--source={source}", f"--target={tmp_path / 'ours'}")
    ours = store.Store(tmp_path / "ours")
    _, params = ours.params(jnp.float32)
    with pytest.raises(
        UserError, match=r"projector/fc1/bias: expected float32\[64\], found nothing"
    ):
        partial = nnx.filter_state(params, lambda path, _: path != ("projector", "fc1", "bias"))
        store.save_trained(tmp_path / "trained", ours, partial)
    store.save_trained(tmp_path / "trained", ours, jax.tree.map(lambda x: x + 1e-4, params))
    run("export", f"--source={tmp_path / 'trained'}", f"--target={tmp_path / 'back'}")
    back = read_all(tmp_path / "back")
    dead = KINDS["policy"].dead(synthetic.CONFIGS["policy"])
    for name, array in weights.items():
        if name in dead:
            assert back[name].tobytes() == array.tobytes()
        else:
            np.testing.assert_array_equal(back[name], array.astype(np.float32) + np.float32(1e-4))
    assert store.Store(tmp_path / "trained").config == synthetic.CONFIGS["policy"]


def test_safetensors_go_both_ways_without_torch(tmp_path):
    """torch is an extra, and hundreds of MB that a conversion need not hold."""
    weights = synthetic.tensors("reward")
    source = synthetic.write_folder(tmp_path / "source", "reward", weights, shards=1)
    code = (
        "import sys; from wmpo_jax.convert import main; source, ours, back = sys.argv[1:];"
        "assert main(['import', '--kind=reward', '--source=' + source, '--target=' + ours]) == 0;"
        "assert main(['export', '--source=' + ours, '--target=' + back]) == 0;"
        "assert 'torch' not in sys.modules"
    )
    paths = [str(path) for path in (source, tmp_path / "ours", tmp_path / "back")]
    command = [sys.executable, "-c", code, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_same_bits(read_all(tmp_path / "back"), weights)
