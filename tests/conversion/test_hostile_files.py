"""Files that are damaged, incomplete, of the wrong kind, or meant to do harm: one sentence, nothing
written, nothing run."""

import json
import os
import pickle
import random

import numpy as np
import pytest
import torch
from orbax.checkpoint import type_handlers
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from tests.conversion import synthetic
from wmpo_jax import convert
from wmpo_jax.conversion.foreign import ForeignWeights
from wmpo_jax.conversion.torch_files import save_state_dict
from wmpo_jax.runtime.errors import UserError


@pytest.fixture(scope="module")
def weights():
    return synthetic.tensors("reward")


@pytest.fixture
def folder(weights, tmp_path):
    return synthetic.write_folder(tmp_path / "source", "reward", weights, shards=2)


def refusal(source, capsys, kind="reward") -> str:
    """What is said about `source`; checks that nothing appears beside it."""
    target = source.parent / "target"
    before = sorted(source.parent.iterdir())
    status = convert.main(["import", f"--kind={kind}", f"--source={source}", f"--target={target}"])
    message = capsys.readouterr().err
    assert status == 2
    assert sorted(source.parent.iterdir()) == before
    assert message.startswith("wmpo_jax: ") and "Traceback" not in message
    return message


def one_sentence(message: str) -> bool:
    return message.count("\n") == 1


def edit_index(folder, change):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def test_truncated_safetensors(folder, capsys):
    shard = folder / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    message = refusal(folder, capsys)
    assert "no whole safetensors file" in message and one_sentence(message)


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x08\0\0\0\0\0\0\0not json"])
def test_what_is_no_safetensors_at_all(content, tmp_path, capsys):
    (tmp_path / "x.safetensors").write_bytes(content)
    assert "no whole safetensors file" in refusal(tmp_path / "x.safetensors", capsys)


@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.uint8])
def test_wrong_dtype(dtype, weights, tmp_path, capsys):
    name = "fc_norm.weight"
    save_file(weights | {name: weights[name].astype(dtype)}, tmp_path / "x.safetensors")
    message = refusal(tmp_path / "x.safetensors", capsys)
    assert f"{name}: expected float32[64], found {np.dtype(dtype).name}[64]" in message


def test_dtype_that_numpy_does_not_know(tmp_path, capsys):
    tensor = torch.ones(4).to(torch.float8_e8m0fnu)
    save_torch_file({"fc_norm.weight": tensor}, tmp_path / "x.safetensors")
    message = refusal(tmp_path / "x.safetensors", capsys)
    assert "no kind of weight" in message and one_sentence(message)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float32, synthetic.BFLOAT16])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_values_that_are_no_numbers(suffix, dtype, value, weights, tmp_path, capsys, caplog):
    spoilt = {name: array.astype(dtype) for name, array in weights.items()}
    spoilt["videomae.encoder.layer.1.output.dense.weight"][3, 5] = value
    path = tmp_path / f"x{suffix}"
    (save_state_dict(path, spoilt) if suffix == ".pth" else save_file(spoilt, path))
    message = refusal(path, capsys)
    assert "NaN or infinite values in videomae.encoder.layer.1.output.dense.weight" in message
    assert one_sentence(message)
    assert not caplog.records  # Orbax would log two tracebacks besides


def test_shard_that_is_missing(folder, capsys):
    (folder / "model-00002-of-00002.safetensors").unlink()
    message = refusal(folder, capsys)
    assert "names the shard model-00002-of-00002.safetensors, which is missing" in message
    assert one_sentence(message)


@pytest.mark.parametrize(
    "path", ["../secret.safetensors", "/etc/passwd", "sub/x.safetensors", ".."]
)
def test_index_that_leaves_its_folder(path, folder, weights, capsys):
    save_file(weights, folder.parent / "secret.safetensors")
    edit_index(folder, lambda index: index.update({"fc_norm.weight": path}))
    message = refusal(folder, capsys)
    assert f"'{path}', which is not a plain file name" in message and one_sentence(message)


def test_index_that_disagrees_with_its_shards(folder, capsys):
    edit_index(folder, lambda index: index.pop("fc_norm.weight"))
    assert "holds fc_norm.weight" in refusal(folder, capsys)
    edit_index(folder, lambda index: index.update({"ghost": "model-00001-of-00002.safetensors"}))
    assert "its index says otherwise" in refusal(folder, capsys)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": {"a": 3}}', "{}"])
def test_index_that_is_none(text, folder, capsys):
    (folder / "model.safetensors.index.json").write_text(text)
    assert one_sentence(refusal(folder, capsys))


class Malice:
    """Unpickling this runs a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_with_code_is_not_run(zipped, weights, tmp_path, capsys):
    proof = tmp_path.parent / f"{tmp_path.name}_was_here"
    evil = {"a": torch.ones(1), "b": Malice(f"touch {proof}")}
    path = tmp_path / "x.pth"
    torch.save(evil, path, _use_new_zipfile_serialization=zipped)
    message = refusal(path, capsys)
    assert "a pickle of more than tensors, which is not opened" in message
    assert one_sentence(message)
    path.write_bytes(pickle.dumps(evil["b"]))
    assert "is not opened" in refusal(path, capsys)
    assert not proof.exists()


def test_truncated_torch_file(weights, tmp_path, capsys):
    path = tmp_path / "x.pth"
    save_state_dict(path, weights)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert one_sentence(refusal(path, capsys))


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_torch_files_are_refused_or_read_as_they_were(zipped, tmp_path):
    """Damage that torch itself reads as other numbers is found by the archive's checksums."""
    tensors = {f"layer.{i}.weight": torch.full((3, 4), i + 0.5) for i in range(4)}
    path, draw = tmp_path / "x.pth", random.Random(0)
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    content, refused = path.read_bytes(), 0
    for _ in range(120):
        place, length = draw.randrange(len(content)), draw.randrange(1, 9)
        path.write_bytes(content[:place] + draw.randbytes(length) + content[place + length :])
        try:
            weights = ForeignWeights(path)
            found = {name: weights.read(name) for name in weights.infos}
        except UserError as error:
            assert str(path) in str(error)
            refused += 1
            continue
        if zipped:  # the older format has no checksums
            assert found.keys() == tensors.keys()
            assert all((found[name] == tensors[name].numpy()).all() for name in tensors)
    assert refused > 60


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {}, {"a": torch.eye(2).to_sparse()}])
def test_torch_file_that_is_no_state_dict(content, tmp_path, capsys):
    torch.save(content, tmp_path / "x.pt")
    assert one_sentence(refusal(tmp_path / "x.pt", capsys, "world_model"))


def test_wrong_names_and_shapes_are_listed(weights, tmp_path, capsys):
    wrong = dict(weights)
    wrong["fc_norm.weights"] = wrong.pop("fc_norm.weight")
    wrong["classifier.bias"] = np.zeros(3, np.float32)
    save_file(wrong, tmp_path / "x.safetensors")
    message = refusal(tmp_path / "x.safetensors", capsys)
    for line in (
        "classifier.bias: expected float32[2], found float32[3]",
        "fc_norm.weight: expected float32[64], found nothing",
        "fc_norm.weights: expected nothing, found float32[64]",
    ):
        assert line in message


@pytest.mark.parametrize("kind", ["policy", "world_model", "autoencoder"])
def test_weights_of_another_kind(kind, folder, capsys):
    message = refusal(folder, capsys, kind)
    assert "holds a reward" in message and "give --kind=reward" in message
    assert one_sentence(message)


@pytest.mark.parametrize("kind", ["policy", "world_model", "reward"])
def test_weights_of_no_kind(kind, tmp_path, capsys):
    save_file({"layer.weight": np.ones((2, 2), np.float32)}, tmp_path / "x.safetensors")
    message = refusal(tmp_path / "x.safetensors", capsys, kind)
    assert one_sentence(message)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"image_size": "big"}',
        '{"num_attention_heads": 7}',
        '{"image_size": [1]}',
        '{"image_size": 0}',
        '{"image_size": 30}',
        '{"image_size": 1' + "0" * 400 + "}",
    ],
)
def test_config_that_is_none(text, folder, capsys):
    (folder / "config.json").write_text(text)
    assert one_sentence(refusal(folder, capsys))


@pytest.mark.parametrize(
    "change", [{"n_action_bins": 1}, {"n_action_bins": 400}, {"pad_to_multiple_of": -5}]
)
def test_policy_config_that_leaves_no_action_tokens(change, tmp_path, capsys):
    source = tmp_path / "source"
    synthetic.write_folder(source, "policy", synthetic.tensors("policy"), shards=1)
    (source / "config.json").write_text(json.dumps(synthetic.CONFIG_JSON["policy"] | change))
    message = refusal(source, capsys, "policy")
    assert "do not fit the 384 rows" in message and one_sentence(message)


@pytest.mark.parametrize(
    ("variant", "file", "flags", "name"),
    [
        ("L1 action head", "action_head--150000_checkpoint.pt", {}, "action_head.model.fc1.weight"),
        ("proprioceptive", "proprio_projector--5_checkpoint.pt", {"use_proprio": True}, ""),
        ("FiLM", "vision_backbone--5_checkpoint.pt", {}, "x.blocks.0.block.attn.qkv.weight"),
        ("wrist camera", "", {"num_images_in_input": 2}, ""),
        ("diffusion", "noisy_action_projector--5_checkpoint.pt", {"use_diffusion": True}, ""),
    ],
)
def test_other_members_of_the_openvla_oft_family(variant, file, flags, name, tmp_path, capsys):
    def check(config, weights, file=""):
        where = tmp_path / f"{len(config)}{len(weights)}{file}"
        where.mkdir()
        save_file(weights, where / "model.safetensors")
        (where / "config.json").write_text(json.dumps(config))
        if file:
            (where / file).write_bytes(b"")
        message = refusal(where, capsys, "policy")
        assert variant in message and "which is not supported" in message
        assert one_sentence(message)

    plain = {"projector.fc1.weight": np.ones((2, 2), np.float32)}
    if file:
        check({}, plain, file)
    if flags:
        check(flags, plain)
    if name:
        check({}, plain | {name: np.ones(2, np.float32)})


def test_target_that_exists_is_left_alone(folder, tmp_path, capsys):
    target = tmp_path / "target"
    target.mkdir()
    (target / "mine").write_text("precious")
    flags = ["import", "--kind=reward", f"--source={folder}", f"--target={target}"]
    assert convert.main(flags) == 2
    assert "exists already" in capsys.readouterr().err
    assert [path.name for path in target.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    "change",
    [
        {"block_out_channels": ["16", 32]},
        {"block_out_channels": []},
        {"norm_num_groups": -8},
        {"scaling_factor": 0.0},
        {"scaling_factor": float("nan")},
        {"shift_factor": 0.1},
    ],
)
def test_autoencoder_config_that_cannot_be(change, tmp_path, capsys):
    source, weights = tmp_path / "source", synthetic.tensors("autoencoder")
    synthetic.write_folder(source, "autoencoder", weights, shards=1)
    (source / "config.json").write_text(json.dumps(synthetic.CONFIG_JSON["autoencoder"] | change))
    message = refusal(source, capsys, "autoencoder")
    assert "config.json has" in message and one_sentence(message)


FULL = "RESOURCE_EXHAUSTED: Error writing x: No space left on device"


def test_full_disk_leaves_nothing_behind(folder, tmp_path, capsys, caplog, monkeypatch):
    ours, new = tmp_path / "ours", tmp_path / "new"
    flags = ["import", "--kind=reward", f"--source={folder}"]
    assert convert.main([*flags, f"--target={ours}"]) == 0

    def complain(error):
        def write(*args, **kwargs):
            raise error

        return write

    def refused(flags):
        assert convert.main(flags) == 2
        message = capsys.readouterr().err
        assert "could not be written" in message and one_sentence(message)
        assert not new.exists() and not caplog.records

    monkeypatch.setattr(torch, "save", complain(RuntimeError("unexpected pos 6080 vs 5968")))
    refused(["export", f"--source={ours}", f"--target={new / 'deep' / 'x.pth'}"])
    monkeypatch.setattr(
        type_handlers.NumpyHandler, "_background_serialize", complain(ValueError(FULL))
    )
    refused([*flags, f"--target={new / 'deep' / 'ours'}"])


@pytest.mark.parametrize("name", ["n" * 300, "config.json/below_a_file"])
def test_places_that_cannot_be(name, folder, tmp_path, capsys):
    for source, target in ((folder, folder / name), (folder / name, tmp_path / "target")):
        flags = ["import", "--kind=reward", f"--source={source}", f"--target={target}"]
        assert convert.main(flags) == 2
        assert one_sentence(capsys.readouterr().err)


def test_damaged_store_is_refused_by_export(folder, tmp_path, capsys):
    ours = tmp_path / "ours"
    flags = ["import", "--kind=reward", f"--source={folder}", f"--target={ours}"]
    assert convert.main(flags) == 0
    for file in (ours / "params").rglob("*"):
        if file.is_file() and file.stat().st_size > 10_000:
            file.write_bytes(file.read_bytes()[:5_000])
    assert convert.main(["export", f"--source={ours}", f"--target={tmp_path / 'back'}"]) == 2
    assert "damaged" in capsys.readouterr().err
    assert not (tmp_path / "back").exists()
    assert convert.main(["export", f"--source={tmp_path}", f"--target={tmp_path / 'back'}"]) == 2
