"""The config a foreign checkpoint was made with, read off its tensor shapes.

Shapes tell everything but the number of heads and a few constants; those come from the
checkpoint's settings (`documents.read_settings`) where it has them, else from the released models.
Settings that the networks do not implement, or that contradict the weights, are refused.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar, cast

import jax.numpy as jnp

from wmpo_jax.conversion import settings
from wmpo_jax.models.autoencoder_kl import AutoencoderKLConfig
from wmpo_jax.models.stdit import STDiTConfig
from wmpo_jax.models.videomae import VideoMAEConfig
from wmpo_jax.models.vla import LlamaConfig, ViTConfig, VLAConfig
from wmpo_jax.runtime.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]
Json = Mapping[str, Any]
T = TypeVar("T")

# Width of an attention head: the same in every size of the family.
DINO_HEAD, SIGLIP_HEAD, LLAMA_HEAD, VIDEOMAE_HEAD = 64, 72, 128, 64
VIDEOMAE_WINDOW = 8  # frames; WMPO's classifiers, whatever the hub's pre-training config says


def policy_config(shapes: Shapes, json: Json) -> VLAConfig:
    """OpenVLA-OFT with discrete tokens, of any depth and width."""
    settings.check("policy", json)
    settings.check_towers(json)
    released = VLAConfig.openvla_7b(jnp.float32)
    config = dataclasses.replace(
        released,
        dino=dataclasses.replace(
            _vit(shapes, "vision_backbone.featurizer", DINO_HEAD),
            class_token=True,
            registers=_dims(shapes, "vision_backbone.featurizer.reg_token", 3)[1],
            layer_scale=True,
        ),
        siglip=_vit(shapes, "vision_backbone.fused_featurizer", SIGLIP_HEAD),
        llama=_llama(shapes, _given(json, "text_config", {})),
        projector_width=_dims(shapes, "projector.fc1.weight", 2)[0],
        n_action_classes=_given(json, "n_action_bins", released.n_action_classes),
        n_unused_rows=_given(json, "pad_to_multiple_of", released.n_unused_rows),
        pad_token=_given(json, "pad_token_id", released.pad_token),
    )
    rows = config.llama.vocab_size
    if config.n_action_classes < 2 or config.n_unused_rows < 0 or config.action_token_begin < 0:
        raise UserError(
            f"config.json has n_action_bins = {config.n_action_classes} and pad_to_multiple_of = "
            f"{config.n_unused_rows}, which do not fit the {rows} rows of the vocabulary: "
            "take the one that belongs to the weights."
        )
    llama = {"hidden_size": config.llama.width, "num_hidden_layers": config.llama.depth}
    llama |= {"intermediate_size": config.llama.mlp_width, "vocab_size": rows}
    llama |= {"num_key_value_heads": config.llama.heads}
    sizes = {f"text_config.{key}": size for key, size in llama.items()}
    sizes |= {"image_sizes": [config.image_size] * 2}
    sizes |= {"preprocessor.input_sizes": [[3, config.image_size, config.image_size]] * 2}
    settings.check_fits(json, sizes)
    return config


def _vit(shapes: Shapes, prefix: str, head: int) -> ViTConfig:
    width, _, patch, _ = _dims(shapes, f"{prefix}.patch_embed.proj.weight", 4)
    patches = _dims(shapes, f"{prefix}.pos_embed", 3)[1]
    return ViTConfig(
        image_size=round(patches**0.5) * patch,
        patch=patch,
        width=width,
        depth=_depth(shapes, prefix + r"\.blocks\.(\d+)\."),
        heads=_heads(width, head, prefix),
        mlp_width=_dims(shapes, f"{prefix}.blocks.0.mlp.fc1.weight", 2)[0],
    )


def _llama(shapes: Shapes, json: Json) -> LlamaConfig:
    vocab_size, width = _dims(shapes, "language_model.model.embed_tokens.weight", 2)
    layers = r"language_model\.model\.layers\.(\d+)\."
    return LlamaConfig(
        vocab_size=vocab_size,
        width=width,
        depth=_depth(shapes, layers),
        heads=_given_heads(json, width, LLAMA_HEAD, "language_model"),
        mlp_width=_dims(shapes, "language_model.model.layers.0.mlp.gate_proj.weight", 2)[0],
        rms_norm_eps=_given(json, "rms_norm_eps", 1e-6),
        rope_theta=_given(
            _given(json, "rope_parameters", {}),
            "rope_theta",
            _given(json, "rope_theta", 10_000.0),
        ),
    )


def world_model_config(shapes: Shapes, json: Json) -> STDiTConfig:
    """STDiT3 with actions; history 4 and chunk 8 are WMPO's and stand in no checkpoint."""
    settings.check("world_model", json)
    hidden, channels, _, rows, columns = _dims(shapes, "x_embedder.proj.weight", 5)
    if not any(name.startswith("action_embedder.") for name in shapes):
        raise UserError(
            "These are weights of Open-Sora's STDiT3 without actions: "
            "take a world model that was trained with them, as WMPO's."
        )
    action_dim = _dims(shapes, "action_embedder.fc.0.weight", 2)[1]
    wide = _dims(shapes, "spatial_blocks.0.mlp.fc1.weight", 2)[0]
    (head,) = _dims(shapes, "spatial_blocks.0.attn.q_norm.weight", 1)
    outputs = _dims(shapes, "final_layer.linear.weight", 2)[0]
    config = dataclasses.replace(
        STDiTConfig.xl_2(),
        in_channels=channels,
        patch=(rows, columns),
        hidden=hidden,
        depth=_depth(shapes, r"spatial_blocks\.(\d+)\."),
        heads=_heads(hidden, head, "spatial_blocks"),
        action_dim=action_dim,
        mlp_ratio=wide / hidden,
        pred_sigma=outputs == 2 * channels * rows * columns,
        input_square_px=_given(json, "input_sq_size", STDiTConfig.xl_2().input_square_px),
        dtype=jnp.float32,
    )
    sizes = {"hidden_size": hidden, "depth": config.depth, "num_heads": config.heads}
    sizes |= {"in_channels": channels, "pred_sigma": config.pred_sigma}
    settings.check_fits(json, sizes | {"patch_size": [1, rows, columns]})
    return config


def autoencoder_config(shapes: Shapes, json: Json) -> AutoencoderKLConfig:
    """Diffusers' AutoencoderKL; without a config.json the SDXL one."""
    settings.check("autoencoder", json)
    settings.check_blocks(json)
    if not json:
        return AutoencoderKLConfig.sdxl(jnp.float32)  # pyright: ignore[reportArgumentType]
    config = AutoencoderKLConfig(
        block_out_channels=tuple(_given(json, "block_out_channels", [])),
        layers_per_block=_given(json, "layers_per_block", 0),
        latent_channels=_given(json, "latent_channels", 0),
        norm_num_groups=_given(json, "norm_num_groups", 0),
        scaling_factor=_given(json, "scaling_factor", 0.18215),  # diffusers' default
        mid_attention=_given(json, "mid_block_add_attention", True),
    )
    channels, groups = config.block_out_channels, config.norm_num_groups
    sizes = (*channels, config.layers_per_block, config.latent_channels, groups)
    whole = len(channels) > 0 and all(type(n) is int and n > 0 for n in sizes)
    if not whole or any(n % groups for n in channels):
        raise UserError(
            "config.json has no block_out_channels, layers_per_block, latent_channels and "
            "norm_num_groups that fit together: take the autoencoder's own folder."
        )
    if not 0 < config.scaling_factor < math.inf or json.get("shift_factor"):
        raise UserError(
            f"config.json has scaling_factor = {config.scaling_factor} and shift_factor = "
            f"{json.get('shift_factor')}; only autoencoders that scale and do not shift are "
            "supported, as SDXL's."
        )
    return config


def reward_config(shapes: Shapes, json: Json) -> VideoMAEConfig:
    """VideoMAE classifier with two labels, failure and success.

    Without a preprocessor_config.json pixels are normalized as the reference does.
    """
    settings.check("reward", json)
    settings.check_labels(json)
    kernel = "videomae.embeddings.patch_embeddings.projection.weight"
    hidden, _, tubelet, patch, _ = _dims(shapes, kernel, 5)
    layer = "videomae.encoder.layer"
    image_size = _given(json, "image_size", 224)
    if image_size < patch or image_size % patch:
        _not_this_kind(f"image_size: expected a multiple of the patch {patch}, found {image_size}")
    labels = _dims(shapes, "classifier.weight", 2)[0]
    if labels != 2:
        raise UserError(
            f"The classifier has {labels} labels, and WMPO's have two, failure and success: "
            "fine-tune it with num_labels=2."
        )
    released = VideoMAEConfig.base()
    config = dataclasses.replace(
        released,
        image_size=image_size,
        patch_size=patch,
        num_frames=VIDEOMAE_WINDOW,
        tubelet_size=tubelet,
        hidden_size=hidden,
        num_layers=_depth(shapes, r"videomae\.encoder\.layer\.(\d+)\."),
        num_heads=_given_heads(json, hidden, VIDEOMAE_HEAD, layer),
        mlp_size=_dims(shapes, f"{layer}.0.intermediate.dense.weight", 2)[0],
        num_labels=labels,
        image_mean=settings.normalization(json, "preprocessor.image_mean") or released.image_mean,
        image_std=settings.normalization(json, "preprocessor.image_std") or released.image_std,
        head="sigmoid",
    )
    sizes = {"hidden_size": hidden, "num_hidden_layers": config.num_layers, "patch_size": patch}
    sizes |= {"intermediate_size": config.mlp_size, "tubelet_size": tubelet}
    settings.check_fits(json, sizes)
    settings.check_image_size(json, image_size)
    return config


def _dims(shapes: Shapes, name: str, count: int) -> tuple[int, ...]:
    shape = shapes.get(name)
    if shape is None or len(shape) != count or 0 in shape:
        found = "nothing" if shape is None else f"shape {shape}"
        _not_this_kind(f"{name}: expected {count} dimensions, found {found}")
    return shape


def _depth(shapes: Shapes, pattern: str) -> int:
    numbers = [int(match[1]) for name in shapes if (match := re.match(pattern, name))]
    if not numbers or max(numbers) >= len(shapes):
        _not_this_kind(f"{pattern}: expected numbered layers, found {len(numbers)} names")
    return max(numbers) + 1


def _heads(width: int, head: int, where: str) -> int:
    if width % head:
        _not_this_kind(f"{where}: expected a width that is a multiple of {head}, found {width}")
    return width // head


def _given_heads(json: Json, width: int, head: int, where: str) -> int:
    heads = _given(json, "num_attention_heads", 0) or _heads(width, head, where)
    if heads < 0 or width % heads:
        _not_this_kind(f"{where}: expected a number of heads that divides {width}, found {heads}")
    return heads


def _given(json: Json, key: str, default: T) -> T:
    """The value in config.json, of the default's type (a whole number may stand for a float)."""
    value = json.get(key)
    if value is None:
        return default
    if type(value) is int and isinstance(default, float):
        return cast(T, float(value))
    if type(value) is not type(default):
        raise UserError(
            f"config.json has {key} = {value!r}, expected {type(default).__name__}: "
            "take the one that belongs to the weights."
        )
    return value


def _not_this_kind(difference: str) -> NoReturn:
    raise UserError(f"These are not weights of this --kind, which says {difference}.")
