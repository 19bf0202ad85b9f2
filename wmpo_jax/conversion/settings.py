"""What config.json and preprocessor_config.json may say: anything else is refused by name.

A setting that is absent or null has the default of the released models.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from wmpo_jax.runtime.errors import UserError

Json = Mapping[str, Any]

# Setting -> the values that the networks here implement; () where only null will do. A dot leads
# into an object, "preprocessor" is preprocessor_config.json.
SUPPORTED: dict[str, dict[str, tuple[Any, ...]]] = {
    "policy": {
        "model_type": ("openvla",),
        "image_resize_strategy": ("resize-naive",),
        "use_fused_vision_backbone": (True,),
        "tie_word_embeddings": (False,),
        "quantization_config": (),
        "text_config.model_type": ("llama",),
        "text_config.hidden_act": ("silu",),
        "text_config.rope_scaling": (),
        "text_config.rope_parameters.rope_type": ("default",),
        "text_config.attention_bias": (False,),
        "text_config.mlp_bias": (False,),
        "text_config.tie_word_embeddings": (False,),
        "preprocessor.image_resize_strategy": ("resize-naive",),
        "preprocessor.tvf_do_letterbox": (False,),
        "preprocessor.use_fused_vision_backbone": (True,),
    },
    "world_model": {
        "model_type": ("STDiT3",),
        "qk_norm": (True,),
        "qk_norm_legacy": (False,),
        "quantization_config": (),
    },
    "autoencoder": {
        "_class_name": ("AutoencoderKL",),
        "act_fn": ("silu",),
        "in_channels": (3,),
        "out_channels": (3,),
        "latents_mean": (),
        "latents_std": (),
        "use_quant_conv": (True,),
        "use_post_quant_conv": (True,),
        "quantization_config": (),
    },
    "reward": {
        "model_type": ("videomae",),
        "num_frames": (8,),
        "num_channels": (3,),
        "num_labels": (2,),
        "qkv_bias": (True,),
        "qv_bias": (True,),
        "hidden_act": ("gelu",),
        "layer_norm_eps": (1e-12,),
        "use_mean_pooling": (True,),
        "quantization_config": (),
        "preprocessor.do_resize": (True,),
        "preprocessor.do_center_crop": (True,),
        "preprocessor.do_rescale": (True,),
        "preprocessor.rescale_factor": (1 / 255,),
        "preprocessor.do_normalize": (True,),
        "preprocessor.resample": (2,),
    },
}

# How the labels of classifiers begin.
SUCCESS = ("succ", "complete", "done", "positive", "true", "1")
FAILURE = ("fail", "incomplete", "unsucc", "not ", "not_", "negative", "false", "0")


def check(kind: str, settings: Json) -> None:
    """UserError for the first setting that is not implemented."""
    for path, allowed in SUPPORTED[kind].items():
        value = lookup(settings, path)
        if value is None or any(type(value) is type(a) and value == a for a in allowed):
            continue
        only = " or ".join(map(repr, allowed)) or "leaving it out"
        raise UserError(
            f"{_where(path)} = {value!r}, which is not supported (only {only} is): take another "
            "checkpoint, or correct the setting where it is wrong."
        )


def check_fits(settings: Json, sizes: Mapping[str, Any]) -> None:
    """UserError when a setting contradicts a size that was read off the weights."""
    for path, size in sizes.items():
        value = lookup(settings, path)
        if value is not None and value != size:
            raise UserError(
                f"{_where(path)} = {value!r} and the weights have {size!r}: "
                "take the one that belongs to the weights."
            )


def check_image_size(settings: Json, size: int) -> None:
    """UserError when frames would be resized or cropped to another size than `size` x `size`."""
    for key in ("preprocessor.size", "preprocessor.crop_size"):
        value = lookup(settings, key)
        if isinstance(value, Mapping):
            edges = ("shortest_edge", "height", "width")
            check_fits(settings, {f"{key}.{edge}": size for edge in edges})
        else:  # one number, as older versions of transformers wrote
            check_fits(settings, {key: size})


def lookup(settings: Json, path: str) -> Any:
    """The value at a dotted path, None where there is none."""
    value: Any = settings
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def check_blocks(settings: Json) -> None:
    """An autoencoder has blocks of one type on each side (UserError)."""
    for key, only in (
        ("down_block_types", "DownEncoderBlock2D"),
        ("up_block_types", "UpDecoderBlock2D"),
    ):
        value = settings.get(key)
        if value is not None and value != [only] * len(settings.get("block_out_channels") or []):
            raise UserError(
                f"config.json has {key} = {value!r}, which is not supported (only {only} for each "
                "of block_out_channels is): take another checkpoint."
            )


def check_labels(settings: Json) -> None:
    """Label 1 is success (UserError when id2label or label2id says otherwise)."""
    labels, numbers = settings.get("id2label"), settings.get("label2id")
    if labels is None and isinstance(numbers, Mapping):
        labels = {str(number): name for name, number in numbers.items()}
    if labels is None:
        return
    pair = isinstance(labels, Mapping) and len(labels) == 2
    first, second = (str(labels.get(key, "")).lower() if pair else "" for key in "01")
    if not pair or first.startswith(SUCCESS) or second.startswith(FAILURE):
        raise UserError(
            f"config.json has the labels (id2label) {str(labels)[:80]}, which is not supported "
            "(only two are, failure and then success): take WMPO's kind of classifier."
        )


def normalization(settings: Json, path: str) -> tuple[float, ...] | None:
    """Three numbers from 0 to 1 at `path`, above 0 for a std; None where there are none.

    Pixels are scaled to 0 ... 1 before, so that numbers for 0 ... 255 mean another preprocessing.
    """
    value = lookup(settings, path)
    if value is None:
        return None
    numbers = isinstance(value, Sequence) and all(
        type(x) in (int, float) and 0 <= x <= 1 for x in value
    )
    if not numbers or len(value) != 3 or (path.endswith("std") and min(value) <= 0):
        raise UserError(
            f"{_where(path)} = {value!r}, expected three numbers from 0 to 1: "
            "take the file that belongs to the weights."
        )
    return tuple(map(float, value))


def check_towers(settings: Json) -> None:
    """Two normalizations with a mean and a std each, as OpenVLA's two towers need (UserError)."""
    path = "preprocessor.tvf_normalize_params"
    towers = lookup(settings, path)
    if towers is None:
        return
    if not isinstance(towers, list) or len(towers) != 2:
        raise UserError(
            f"{_where(path)} = {towers!r}, which is not supported (only two normalizations, "
            "DINOv2's and SigLIP's, are): take the file that belongs to the weights."
        )
    for tower in towers:
        if any(normalization({"x": tower}, f"x.{key}") is None for key in ("mean", "std")):
            raise UserError(f"{_where(path)} lacks a mean or std: copy the file again.")


def _where(path: str) -> str:
    file = "preprocessor_config.json" if path.startswith("preprocessor.") else "config.json"
    return f"{file} has {path.removeprefix('preprocessor.')}"
