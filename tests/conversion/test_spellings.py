"""Known spellings load and are said; what cannot be meant is named, with the cure."""

import numpy as np
import pytest
import torch

from tests.conversion import synthetic
from wmpo_jax.conversion.foreign import ForeignWeights
from wmpo_jax.conversion.spellings import RenamedWeights
from wmpo_jax.conversion.torch_files import save_state_dict, to_torch
from wmpo_jax.runtime.errors import UserError

OLD_ATTENTION = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value."}


def prefixed(prefix):
    return lambda name: prefix + name


def old_diffusers(name):
    for new, old in (OLD_ATTENTION | {".to_out.0.": ".proj_attn."}).items():
        name = name.replace(new, old) if ".attentions." in name else name
    return name


def transformers_5(name):
    return name.replace(".q_bias", ".query.bias").replace(".v_bias", ".value.bias")


@pytest.mark.parametrize(
    ("kind", "spell", "said"),
    [
        ("world_model", prefixed("module."), "as in module."),
        ("world_model", prefixed("ema."), "as in ema."),
        ("reward", prefixed("model."), "as in model."),
        ("reward", prefixed("_orig_mod."), "as in _orig_mod."),
        ("reward", lambda n: n.replace("videomae.", "videomae._orig_mod."), "videomae._orig_mod."),
        ("policy", prefixed("base_model.model."), "as in base_model.model."),
        ("policy", prefixed("module._fsdp_wrapped_module."), "as in module._fsdp"),
        ("policy", lambda n: n.replace(".scale_factor", ".gamma"), "timm"),
        ("autoencoder", prefixed("vae."), "as in vae."),
        ("autoencoder", old_diffusers, "diffusers before 0.18"),
        ("reward", transformers_5, "transformers 5"),
        ("reward", lambda name: "module." + transformers_5(name), "as in module."),
    ],
)
def test_every_spelling_gives_the_same_tensors(kind, spell, said, tmp_path):
    weights = synthetic.tensors(kind)
    spelled = {spell(name): array for name, array in weights.items()}
    assert spelled.keys() != weights.keys()
    save_state_dict(tmp_path / "x.pt", spelled)
    found = RenamedWeights(ForeignWeights(tmp_path / "x.pt"), kind)
    assert found.infos.keys() == weights.keys()
    assert any(said in note for note in found.notes)
    for name, array in weights.items():
        np.testing.assert_array_equal(found.read(name), array)


def test_plain_names_say_nothing(tmp_path):
    save_state_dict(tmp_path / "x.pt", synthetic.tensors("reward"))
    assert RenamedWeights(ForeignWeights(tmp_path / "x.pt"), "reward").notes == []


def test_the_counter_of_an_averaged_model_is_left_out(tmp_path):
    weights = synthetic.tensors("reward")
    averaged = {f"module.{name}": array for name, array in weights.items()}
    save_state_dict(tmp_path / "x.pt", averaged | {"n_averaged": np.array(7)})
    found = RenamedWeights(ForeignWeights(tmp_path / "x.pt"), "reward")
    assert found.infos.keys() == weights.keys()


def torch_weights(kind="world_model"):
    return {name: to_torch(array) for name, array in synthetic.tensors(kind).items()}


@pytest.mark.parametrize("key", ["state_dict", "model", "ema", "module"])
def test_the_one_state_dict_that_a_trainer_wrapped_is_taken(key, tmp_path):
    weights = torch_weights()
    content = {key: weights, "epoch": 3, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}}
    torch.save(content, tmp_path / "x.pt")
    found = ForeignWeights(tmp_path / "x.pt")
    assert found.infos.keys() == weights.keys()
    assert found.notes == [f"The weights are those under '{key}' in x.pt."]


def test_parameters_are_tensors_too(tmp_path):
    weights = torch_weights("reward")
    torch.save({n: torch.nn.Parameter(x) for n, x in weights.items()}, tmp_path / "x.pt")
    found = ForeignWeights(tmp_path / "x.pt")
    assert found.notes == [] and found.infos.keys() == weights.keys()


def test_two_wrapped_state_dicts_are_both_named(tmp_path):
    torch.save({"model": torch_weights(), "ema": torch_weights()}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="several state dicts, model, ema"):
        ForeignWeights(tmp_path / "x.pt")


def refusal(tmp_path, kind, tensors) -> str:
    save_state_dict(tmp_path / "x.pt", tensors)
    with pytest.raises(UserError) as error:
        RenamedWeights(ForeignWeights(tmp_path / "x.pt"), kind)
    assert "\n" not in str(error.value)
    return str(error.value)


ONE = np.ones((2, 2), np.float32)


@pytest.mark.parametrize(
    ("kind", "name", "what", "cure"),
    [
        ("policy", "base_model.model.q_proj.lora_A.weight", "LoRA adapter", "merge_and_unload"),
        ("policy", "q_proj.lora_B.default.weight", "LoRA adapter", "merge_and_unload"),
        ("world_model", "attn.qkv.base_layer.weight", "LoRA adapter", "merge_and_unload"),
        ("policy", "q_proj.weight.absmax", "quantized", "bfloat16"),
        ("policy", "q_proj.qweight", "quantized", "bfloat16"),
        ("policy", "llm_backbone.llm.lm_head.weight", "Prismatic", "convert_openvla_weights"),
        ("autoencoder", "first_stage_model.encoder.down.0.block.0.x", "ldm", "from_single_file"),
        ("autoencoder", "decoder.mid.attn_1.q.weight", "ldm", "from_single_file"),
        ("reward", "encoder.blocks.0.attn.qkv.weight", "original repository", "transformers"),
        ("reward", "videomae.mask_token", "pre-training", "two labels"),
        ("reward", "encoder.layer.0.output.dense.weight", "bare VideoMAEModel", "save the"),
    ],
)
def test_other_forms_are_named_with_the_cure(kind, name, what, cure, tmp_path):
    said = refusal(tmp_path, kind, {name: ONE})
    assert what in said and cure in said


def test_weights_that_are_there_twice_are_refused(tmp_path):
    weights = synthetic.tensors("reward")
    twice = {f"{p}.{name}": array for p in ("model", "ema") for name, array in weights.items()}
    said = refusal(tmp_path, "reward", twice)
    assert "'model.' and 'ema.'" in said


def test_a_model_inside_a_larger_one_is_named(tmp_path):
    weights = {f"judge.{name}": array for name, array in synthetic.tensors("reward").items()}
    said = refusal(tmp_path, "reward", weights | {"head.weight": ONE})
    assert "under 'judge.' beside 1 other tensors (head.weight)" in said
