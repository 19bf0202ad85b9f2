"""Which files are read: the same by every name, said afterwards, and never chosen silently."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.conversion import synthetic
from wmpo_jax import convert
from wmpo_jax.conversion import exporting, verify
from wmpo_jax.conversion.kinds import KINDS
from wmpo_jax.conversion.store import Store
from wmpo_jax.conversion.torch_files import save_state_dict
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import claimed

# Settings that do not follow from the shapes of tensors.
UNSHAPED = {
    "policy": {"text_config": {"num_attention_heads": 4, "rms_norm_eps": 1e-5}},
    "world_model": {"input_sq_size": 256},
    "autoencoder": {"scaling_factor": 0.18215},
    "reward": {"num_attention_heads": 4},
}


def bring_in(kind, source, target, *flags) -> int:
    places = [f"--source={source}", f"--target={target}"]
    return convert.main(["import", f"--kind={kind}", *places, *flags])


def model_folder(folder, kind, shards=1):
    synthetic.write_folder(folder, kind, synthetic.tensors(kind), shards)
    settings = synthetic.CONFIG_JSON.get(kind, {}) | UNSHAPED[kind]
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_a_model_folder_means_what_the_folder_means(kind, shards, tmp_path):
    folder = model_folder(tmp_path / "source", kind, shards)
    stem = KINDS[kind].weight_stem
    file = folder / f"{stem}.safetensors{'.index.json' if shards > 1 else ''}"
    assert bring_in(kind, folder, tmp_path / "by_folder") == 0
    assert bring_in(kind, file, tmp_path / "by_file") == 0
    by_folder, by_file = Store(tmp_path / "by_folder"), Store(tmp_path / "by_file")
    assert by_folder.config == by_file.config != synthetic.CONFIGS[kind]
    assets = [sorted(p.name for p in (s.folder / "assets").iterdir()) for s in (by_folder, by_file)]
    assert assets[0] == assets[1] and "config.json" in assets[0]


def test_the_oft_variant_is_refused_by_either_name(tmp_path, capsys):
    folder = model_folder(tmp_path / "source", "policy")
    (folder / "proprio_projector--5_checkpoint.pt").write_bytes(b"")
    for source in (folder, folder / "model.safetensors"):
        assert bring_in("policy", source, tmp_path / "target") == 2
        assert "proprioceptive" in capsys.readouterr().err


def test_plain_openvla_is_recognized_by_its_code(tmp_path, capsys):
    folder = model_folder(tmp_path / "source", "policy")
    code = folder / "modeling_prismatic.py"
    code.write_text("ids = self.generate(input_ids, max_new_tokens=7)\n")
    assert bring_in("policy", folder / "model.safetensors", tmp_path / "target") == 2
    assert "plain OpenVLA" in capsys.readouterr().err
    code.write_text("def predict(): return self.head(NUM_ACTIONS_CHUNK)\n")
    assert bring_in("policy", folder, tmp_path / "target") == 0
    assert "plain OpenVLA" not in capsys.readouterr().out


def test_an_average_beside_the_model_is_named_and_none_is_taken(tmp_path, capsys):
    """Open-Sora's trainer leaves model/ and ema.pt in one folder."""
    weights = synthetic.tensors("world_model")
    average = {n: x if n == "rope.freqs" else x * np.float32(0.5) for n, x in weights.items()}
    folder = tmp_path / "epoch0-global_step100"
    (folder / "model").mkdir(parents=True)
    synthetic.write_shards(folder / "model", weights, 2, "pytorch_model-{:05d}.bin")
    save_state_dict(folder / "ema.pt", average)
    assert bring_in("world_model", folder, tmp_path / "target") == 2
    said = capsys.readouterr().err
    assert "holds ema.pt, model/pytorch_model.bin.index.json" in said
    name = "final_layer.linear.bias"
    for source, expected in ((folder / "model", weights), (folder / "ema.pt", average)):
        target = tmp_path / f"of_{source.name}"
        assert bring_in("world_model", source, target) == 0
        assert f"read: {source}" in capsys.readouterr().out
        found = exporting.outgoing(Store(target))[name].read()
        np.testing.assert_array_equal(found, expected[name])


@pytest.mark.parametrize("other", ["pytorch_model.bin", "model.fp16.safetensors", "last.pth"])
def test_two_candidates_are_named(other, tmp_path, capsys):
    folder = model_folder(tmp_path / "source", "reward")
    shutil.copy(folder / "model.safetensors", folder / other)
    assert bring_in("reward", folder, tmp_path / "target") == 2
    said = capsys.readouterr().err
    assert other in said and "model.safetensors" in said and "give the one" in said
    assert bring_in("reward", folder / "model.safetensors", tmp_path / "target") == 0


def test_leftovers_of_trainers_are_no_candidates(tmp_path):
    folder = model_folder(tmp_path / "source", "reward")
    for name in ("optimizer.pt", "training_args.bin", "scheduler.pt", "rng_state_0.pth"):
        (folder / name).write_bytes(b"x")
    assert bring_in("reward", folder, tmp_path / "target") == 0


def test_shards_are_not_taken_for_a_whole(tmp_path, capsys):
    folder = model_folder(tmp_path / "source", "reward", shards=2)
    shard = folder / "model-00001-of-00002.safetensors"
    assert bring_in("reward", shard, tmp_path / "target") == 2
    assert "is one shard of a checkpoint" in capsys.readouterr().err
    (folder / "model.safetensors.index.json").unlink()
    assert bring_in("reward", folder, tmp_path / "target") == 2
    assert "without their index" in capsys.readouterr().err
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert bring_in("reward", folder, tmp_path / "target") == 2
    assert "is one shard of a checkpoint" in capsys.readouterr().err


def test_the_folder_above_names_the_one_with_weights(tmp_path, capsys):
    model_folder(tmp_path / "runs" / "step_500", "reward")
    assert bring_in("reward", tmp_path / "runs", tmp_path / "target") == 2
    assert "its subfolders step_500 do" in capsys.readouterr().err


def test_a_pipeline_holds_its_autoencoder_in_vae(tmp_path, capsys):
    model_folder(tmp_path / "pipeline" / "vae", "autoencoder")
    assert bring_in("autoencoder", tmp_path / "pipeline", tmp_path / "target") == 0
    assert "vae/diffusion_pytorch_model.safetensors, config.json" in capsys.readouterr().out
    assert Store(tmp_path / "target").config.scaling_factor == 0.18215


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth", "config.json"])
def test_pointers_of_git_lfs_are_named(name, tmp_path, capsys):
    folder = model_folder(tmp_path / "source", "reward")
    if name == "model.pth":
        (folder / "model.safetensors").unlink()
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n")
    assert bring_in("reward", folder, tmp_path / "target") == 2
    assert f"{name} is only a pointer of Git LFS" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "[]", "\0"])
def test_a_damaged_config_of_the_original_is_to_be_copied_again(text, tmp_path, capsys):
    folder = model_folder(tmp_path / "source", "reward")
    (folder / "config.json").write_text(text)
    assert bring_in("reward", folder, tmp_path / "target") == 2
    said = capsys.readouterr().err
    assert "delete" not in said and ("copy or download" in said or "take the one" in said)


def test_verification_reads_the_config_of_the_original(tmp_path):
    """A config that changed between import and verification shows."""
    folder = model_folder(tmp_path / "source", "autoencoder")
    assert bring_in("autoencoder", folder, tmp_path / "ours", "--verify") == 0
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scaling_factor": 0.5}))
    with pytest.raises(UserError, match="another scaling_factor"):
        verify.outputs(Store(tmp_path / "ours"), folder)


def test_an_export_to_one_file_is_verified_with_the_config_of_its_store(tmp_path):
    folder = model_folder(tmp_path / "source", "reward")
    assert bring_in("reward", folder, tmp_path / "ours") == 0
    flags = [f"--source={tmp_path / 'ours'}", f"--target={tmp_path / 'back.safetensors'}"]
    assert convert.main(["export", *flags, "--verify"]) == 0
    assert load_file(tmp_path / "back.safetensors").keys() == synthetic.tensors("reward").keys()


@pytest.mark.parametrize(
    "record",
    [
        "{",
        "[]",
        "{}",
        '{"kind": "critic", "tensors": {}}',
        '{"kind": ["reward"], "tensors": {}}',
        '{"kind": "reward"}',
        '{"kind": "reward", "tensors": []}',
        '{"kind": "reward", "tensors": {"a": 3}}',
        '{"kind": "reward", "tensors": {"a": [[2], "float33"]}}',
    ],
)
def test_export_of_what_no_import_wrote(record, tmp_path, capsys):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "conversion.json").write_text(record)
    flags = [f"--source={tmp_path / 'ours'}", f"--target={tmp_path / 'back'}"]
    assert convert.main(["export", *flags]) == 2
    said = capsys.readouterr().err
    assert said.startswith("wmpo_jax: ") and said.count("\n") == 1
    assert not (tmp_path / "back").exists()


def test_a_snapshot_of_links_is_imported_as_files(tmp_path):
    """The cache of Hugging Face's library: links into a folder of files that are named by hash."""
    whole, snapshot = model_folder(tmp_path / "whole", "policy", 2), tmp_path / "snapshots/1"
    (tmp_path / "blobs").mkdir()
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(whole.iterdir())):
        path.rename(tmp_path / f"blobs/{number}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert bring_in("policy", snapshot, tmp_path / "ours") == 0
    assets = list((tmp_path / "ours/assets").iterdir())
    assert {"config.json", "dataset_statistics.json"} <= {path.name for path in assets}
    assert not any(path.is_symlink() for path in assets)


def test_a_device_is_no_weight_file(tmp_path, capsys):
    flags = ["--kind=reward", "--source=/dev/zero", f"--target={tmp_path / 'new'}"]
    assert convert.main(["import", *flags]) == 2
    assert "/dev/zero is no weight file" in capsys.readouterr().err


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    folder = model_folder(tmp_path / "source", "reward")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert bring_in("reward", "~/source", "~/target") == 0
    assert (tmp_path / "target" / "conversion.json").is_file() and not (tmp_path / "~").exists()
    assert Store(Path("~/target")).folder == tmp_path / "target"
    with pytest.raises(SystemExit) as exit_:
        bring_in("reward", folder, "~nobody_of_that_name/target")
    assert exit_.value.code == 2


def test_two_imports_into_one_target_leave_each_other_alone(tmp_path, capsys):
    folder, target = model_folder(tmp_path / "source", "reward"), tmp_path / "target"
    with claimed(target) as temporary:
        temporary.mkdir()
        (temporary / "half").write_text("mine")
        assert bring_in("reward", folder, target) == 2
        assert "Another process is making" in capsys.readouterr().err
        assert (temporary / "half").read_text() == "mine"
    assert [path.name for path in target.iterdir()] == ["half"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]
