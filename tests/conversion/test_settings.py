"""What stands beside the weights is used, or refused by name; what is missing is said."""

import dataclasses
import json

import numpy as np
import pytest

from tests.conversion import synthetic
from wmpo_jax.conversion import companions
from wmpo_jax.conversion.importing import check_tensors
from wmpo_jax.conversion.kinds import KINDS
from wmpo_jax.conversion.sources import Source
from wmpo_jax.conversion.state_dicts import InMemory
from wmpo_jax.runtime.errors import UserError


def config_of(kind, changes):
    settings = synthetic.CONFIG_JSON.get(kind, {}) | changes
    return KINDS[kind].config(KINDS[kind].shapes(synthetic.CONFIGS[kind]), settings)


def preprocessor(**changes):
    return {"preprocessor": changes}


@pytest.mark.parametrize(
    ("kind", "changes", "name"),
    [
        ("policy", {"image_resize_strategy": "letterbox"}, "image_resize_strategy = 'letterbox'"),
        ("policy", preprocessor(image_resize_strategy="letterbox"), "preprocessor_config.json has"),
        ("policy", preprocessor(tvf_do_letterbox=True), "tvf_do_letterbox = True"),
        ("policy", preprocessor(tvf_normalize_params=[{"mean": [0.5] * 3}] * 2), "lacks a mean or"),
        ("policy", preprocessor(tvf_normalize_params=[{}]), "only two normalizations"),
        ("policy", {"tie_word_embeddings": True}, "tie_word_embeddings"),
        ("policy", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("policy", {"text_config": {"model_type": "mistral"}}, "text_config.model_type"),
        ("policy", {"text_config": {"rope_scaling": {"factor": 2}}}, "text_config.rope_scaling"),
        ("policy", {"text_config": {"hidden_size": 64}}, "text_config.hidden_size = 64 and the"),
        ("policy", {"image_sizes": [384, 384]}, "image_sizes = [384, 384] and the weights"),
        ("policy", {"model_type": "llava"}, "model_type = 'llava'"),
        ("world_model", {"qk_norm": False}, "qk_norm = False"),
        ("world_model", {"depth": 28}, "depth = 28 and the weights have 3"),
        ("autoencoder", {"latents_mean": [0.1] * 4}, "latents_mean"),
        ("autoencoder", {"latents_std": [2.0] * 4}, "latents_std"),
        ("autoencoder", {"use_quant_conv": False}, "use_quant_conv"),
        ("autoencoder", {"use_post_quant_conv": False}, "use_post_quant_conv"),
        ("autoencoder", {"_class_name": "AutoencoderTiny"}, "_class_name"),
        ("autoencoder", {"act_fn": "gelu"}, "act_fn"),
        ("autoencoder", {"down_block_types": ["AttnDownBlock2D"] * 2}, "down_block_types"),
        ("reward", {"num_frames": 16}, "num_frames = 16"),
        ("reward", {"num_labels": 1}, "num_labels = 1"),
        ("reward", {"use_mean_pooling": False}, "use_mean_pooling = False"),
        ("reward", {"hidden_act": "relu"}, "hidden_act"),
        ("reward", {"patch_size": 8}, "patch_size = 8 and the weights have 16"),
        ("reward", {"id2label": {"0": "success", "1": "failure"}}, "id2label"),
        ("reward", {"id2label": {"0": "LABEL_0", "1": "failed"}}, "id2label"),
        ("reward", {"id2label": ["failure", "success"]}, "id2label"),
        ("reward", {"label2id": {"failure": 1, "success": 0}}, "id2label"),
        ("reward", {"id2label": {str(i): "x" for i in range(400)}}, "id2label"),
        ("reward", preprocessor(image_mean=[0.5, float("nan"), 0.5]), "image_mean"),
        ("reward", preprocessor(image_std=[0.5, 0.0, 0.5]), "image_std"),
        ("reward", preprocessor(image_mean=[123.7, 116.3, 103.5]), "three numbers from 0 to 1"),
        ("reward", preprocessor(image_std=[0.5, 10**400, 0.5]), "three numbers from 0 to 1"),
        ("reward", preprocessor(do_normalize=False), "do_normalize"),
        ("reward", preprocessor(rescale_factor=1 / 127.5), "rescale_factor"),
        ("reward", preprocessor(size={"shortest_edge": 256}), "shortest_edge = 256 and the"),
        ("reward", preprocessor(crop_size={"height": 24, "width": 32}), "crop_size.height = 24"),
        ("reward", preprocessor(size=256), "size = 256 and the"),
        ("policy", preprocessor(input_sizes=[[3, 384, 384]] * 2), "input_sizes"),
    ],
)
def test_settings_that_are_not_implemented_are_refused_by_name(kind, changes, name):
    with pytest.raises(UserError) as error:
        config_of(kind, changes)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_settings_of_the_released_models_are_accepted():
    assert config_of("policy", {"text_config": {"model_type": "llama", "vocab_size": 384}})
    assert config_of("reward", {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "qv_bias": True})
    assert config_of("reward", {"id2label": {"0": "not_done", "1": "done"}})
    assert config_of("reward", {"label2id": {"failure": 0, "success": 1}})
    size = {"height": 32, "width": 32}
    rescaled = {"rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 32}}
    assert config_of("reward", preprocessor(**rescaled, crop_size=size))
    assert config_of("policy", preprocessor(input_sizes=[[3, 28, 28]] * 2))
    assert config_of("autoencoder", {"latents_mean": None, "use_quant_conv": True})
    assert config_of("world_model", {"model_type": "STDiT3", "patch_size": [1, 2, 2]})


def test_normalization_and_rotary_base_come_from_the_files():
    half = config_of("reward", preprocessor(image_mean=[0.5] * 3, image_std=[0.25] * 3))
    assert (half.image_mean, half.image_std) == ((0.5,) * 3, (0.25,) * 3)
    rope = {"rope_type": "default", "rope_theta": 500.0}
    assert config_of("policy", {"text_config": {"rope_parameters": rope}}).llama.rope_theta == 500.0


@pytest.mark.parametrize("labels", [1, 3, 4, 400])
def test_a_classifier_has_two_labels(labels):
    many = dataclasses.replace(synthetic.CONFIGS["reward"], num_labels=labels)
    with pytest.raises(UserError, match=f"has {labels} labels"):
        KINDS["reward"].config(KINDS["reward"].shapes(many), {})


def test_how_an_imported_classifier_is_read():
    assert config_of("reward", {}).head == "sigmoid"


def test_a_video_model_without_actions_is_named():
    shapes = KINDS["world_model"].shapes(synthetic.CONFIGS["world_model"])
    bare = {n: s for n, s in shapes.items() if not n.startswith("action_embedder.")}
    with pytest.raises(UserError, match="STDiT3 without actions"):
        KINDS["world_model"].config(bare, {})


def test_rotary_buffers_of_old_transformers_are_kept_if_they_agree():
    config, weights = synthetic.CONFIGS["policy"], synthetic.tensors("policy")
    name = "language_model.model.layers.1.self_attn.rotary_emb.inv_freq"
    right = (10_000.0 ** (-np.arange(64) / 64)).astype(np.float32)
    assert check_tensors(KINDS["policy"], config, InMemory(weights | {name: right})) == []
    with pytest.raises(UserError, match="other rotary frequencies"):
        check_tensors(KINDS["policy"], config, InMemory(weights | {name: right * 2}))


ACTION = synthetic.STATISTICS["toy_d0"]["action"]
QUANTILES = {name: ACTION[name] for name in ("q01", "q99", "mask")}


def beside(folder, files) -> list[str]:
    """What is said of a policy with these files around its weights."""
    for name, content in files.items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    source = Source(folder / "model.safetensors", {}, folder)
    return companions.check("policy", source, synthetic.CONFIGS["policy"])


def test_what_is_missing_is_said(tmp_path):
    said = " ".join(beside(tmp_path, {}))
    for name in ("tokenizer.json", "dataset_statistics.json", "config.json", "modeling_*.py"):
        assert f"No {name}" in said


def test_quantiles_and_mask_are_enough(tmp_path):
    synthetic.write_tokenizer(tmp_path, ["What"])
    files = {"modeling_prismatic.py": "NUM_ACTIONS_CHUNK", "config.json": {"model_type": "openvla"}}
    statistics = {"mine": {"action": QUANTILES}}
    assert beside(tmp_path, files | {"dataset_statistics.json": statistics}) == []
    (tmp_path / "dataset_statistics.json").unlink()
    assert beside(tmp_path, files | {"config.json": {"norm_stats": statistics}}) == []


@pytest.mark.parametrize(
    ("statistics", "complaint"),
    [
        ([QUANTILES], "no JSON object"),
        ("{", "not JSON"),
        ({"action": QUANTILES}, "around it"),
        ({"mine": {"proprio": QUANTILES}}, "for 'mine'"),
        ({"mine": {"action": {"mask": [True] * 7}}}, "q01"),
        ({"mine": {"action": QUANTILES | {"q99": [float("nan")] * 7}}}, "finite"),
        ({"mine": {"action": QUANTILES | {"q01": [0.0] * 8}}}, "lengths"),
        ({"mine": {"action": {n: x * 2 for n, x in QUANTILES.items()}}}, "actions of 14 numbers"),
    ],
)
def test_statistics_without_meaning_are_refused(statistics, complaint, tmp_path):
    with pytest.raises(UserError, match=complaint):
        beside(tmp_path, {"dataset_statistics.json": statistics})


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("{}", "no tokenizer"), ("not json", "no tokenizer"), ("version https://git-lfs", "Git LFS")],
)
def test_a_damaged_tokenizer_is_refused(content, complaint, tmp_path):
    with pytest.raises(UserError, match=complaint):
        beside(tmp_path, {"tokenizer.json": content})


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path):
    synthetic.write_tokenizer(tmp_path, [f"word{i}" for i in range(400)])
    with pytest.raises(UserError, match="knows 406 tokens and the policy has 384"):
        beside(tmp_path, {})


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "lora_adapter"])
def test_an_adapter_beside_the_weights_is_mentioned(name, tmp_path):
    (tmp_path / name).mkdir()
    assert any(f"{name} was not read" in note for note in beside(tmp_path, {}))
