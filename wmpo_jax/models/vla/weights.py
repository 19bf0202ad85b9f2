"""The table between OpenVLA's state dict and our parameters, read in both directions.

Original names are those of the Hugging Face checkpoint: `vision_backbone.featurizer.*` is DINOv2,
`vision_backbone.fused_featurizer.*` is SigLIP. Torch keeps linear weights as [out, in] and
convolutions as OIHW; ours are [in, out] and HWIO. Embeddings and the head are [vocabulary, width]
in both. What the network never computes with is listed by `dead_shapes`.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from flax.typing import PathParts

from wmpo_jax.models.vla.config import ViTConfig, VLAConfig


class Layout(NamedTuple):
    """How an array changes on the way in (`ours`) and back out (`theirs`)."""

    ours: Callable[[np.ndarray], np.ndarray]
    theirs: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda array: array, lambda array: array)
LINEAR = Layout(np.transpose, np.transpose)
CONV = Layout(lambda oihw: oihw.transpose(2, 3, 1, 0), lambda hwio: hwio.transpose(3, 2, 0, 1))


class Entry(NamedTuple):
    path: PathParts
    layout: Layout


def name_table(config: VLAConfig) -> dict[str, Entry]:
    """Original name -> where the array is in ours, for every parameter that we have."""
    table: dict[str, Entry] = {}
    table.update(_vit_entries("vision_backbone.featurizer", "dino", config.dino))
    table.update(_vit_entries("vision_backbone.fused_featurizer", "siglip", config.siglip))
    for layer in ("fc1", "fc2", "fc3"):
        table.update(_linear(f"projector.{layer}", ("projector", layer)))
    table.update(_llama_entries("language_model", config.llama.depth))
    if config.learned_slots:
        # Ours alone: no original checkpoint has it.
        table["action_slots"] = Entry(("slots",), SAME)
    return table


def dead_shapes(config: VLAConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes in an OpenVLA checkpoint that no output depends on.

    They are the last block and final norm of each tower, and SigLIP's attention pool.
    """
    towers = {"featurizer": config.dino, "fused_featurizer": config.siglip}
    shapes: dict[str, tuple[int, ...]] = {}
    for tower, vit in towers.items():
        prefix, width = f"vision_backbone.{tower}", vit.width
        shapes |= _block_shapes(f"{prefix}.blocks.{vit.depth - 1}", vit)
        shapes |= {f"{prefix}.norm.weight": (width,), f"{prefix}.norm.bias": (width,)}
    pool, width, wide = f"{prefix}.attn_pool", config.siglip.width, config.siglip.mlp_width
    shapes |= {f"{pool}.latent": (1, 1, width), f"{pool}.norm.weight": (width,)}
    shapes |= {f"{pool}.norm.bias": (width,)}
    for layer, inner, outer in (
        ("q", width, width),
        ("kv", width, 2 * width),
        ("proj", width, width),
        ("mlp.fc1", width, wide),
        ("mlp.fc2", wide, width),
    ):
        shapes |= _linear_shapes(f"{pool}.{layer}", inner, outer)
    return shapes


def _linear(name: str, path: PathParts) -> Iterator[tuple[str, Entry]]:
    yield f"{name}.weight", Entry((*path, "kernel"), LINEAR)
    yield f"{name}.bias", Entry((*path, "bias"), SAME)


def _vit_entries(prefix: str, tower: str, config: ViTConfig) -> Iterator[tuple[str, Entry]]:
    yield f"{prefix}.patch_embed.proj.weight", Entry((tower, "patch_embed", "kernel"), CONV)
    yield f"{prefix}.patch_embed.proj.bias", Entry((tower, "patch_embed", "bias"), SAME)
    yield f"{prefix}.pos_embed", Entry((tower, "pos_embed"), SAME)
    if config.class_token:
        yield f"{prefix}.cls_token", Entry((tower, "cls_token"), SAME)
    if config.registers:
        yield f"{prefix}.reg_token", Entry((tower, "reg_token"), SAME)
    for i in range(config.n_computed_blocks):
        yield from _block_entries(prefix, (tower, "blocks", i), config, i)


def _block_entries(
    prefix: str, path: PathParts, config: ViTConfig, index: int
) -> Iterator[tuple[str, Entry]]:
    block = f"{prefix}.blocks.{index}"
    for norm in ("norm1", "norm2"):
        yield f"{block}.{norm}.weight", Entry((*path, norm, "scale"), SAME)
        yield f"{block}.{norm}.bias", Entry((*path, norm, "bias"), SAME)
    for theirs, ours in (
        ("attn.qkv", "qkv"),
        ("attn.proj", "proj"),
        ("mlp.fc1", "fc1"),
        ("mlp.fc2", "fc2"),
    ):
        yield from _linear(f"{block}.{theirs}", (*path, ours))
    if config.layer_scale:
        # timm calls it `gamma`; OpenVLA renamed it.
        yield f"{block}.ls1.scale_factor", Entry((*path, "scale1"), SAME)
        yield f"{block}.ls2.scale_factor", Entry((*path, "scale2"), SAME)


def _block_shapes(block: str, config: ViTConfig) -> dict[str, tuple[int, ...]]:
    width = config.width
    vectors = ["norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"]
    vectors += ["ls1.scale_factor", "ls2.scale_factor"] if config.layer_scale else []
    shapes: dict[str, tuple[int, ...]] = {f"{block}.{name}": (width,) for name in vectors}
    shapes |= _linear_shapes(f"{block}.attn.qkv", width, 3 * width)
    shapes |= _linear_shapes(f"{block}.attn.proj", width, width)
    shapes |= _linear_shapes(f"{block}.mlp.fc1", width, config.mlp_width)
    return shapes | _linear_shapes(f"{block}.mlp.fc2", config.mlp_width, width)


def _linear_shapes(name: str, inner: int, outer: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outer, inner), f"{name}.bias": (outer,)}


def _llama_entries(prefix: str, depth: int) -> Iterator[tuple[str, Entry]]:
    yield f"{prefix}.model.embed_tokens.weight", Entry(("llama", "embed_tokens"), SAME)
    for i in range(depth):
        layer, path = f"{prefix}.model.layers.{i}", ("llama", "blocks", i)
        for theirs in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{layer}.self_attn.{theirs}.weight", Entry((*path, theirs, "kernel"), LINEAR)
        for theirs in ("gate_proj", "up_proj", "down_proj"):
            yield f"{layer}.mlp.{theirs}.weight", Entry((*path, theirs, "kernel"), LINEAR)
        for theirs, ours in (
            ("input_layernorm", "input_norm"),
            ("post_attention_layernorm", "post_attention_norm"),
        ):
            yield f"{layer}.{theirs}.weight", Entry((*path, ours, "scale"), SAME)
    yield f"{prefix}.model.norm.weight", Entry(("llama", "norm", "scale"), SAME)
    yield f"{prefix}.lm_head.weight", Entry(("llama", "lm_head"), SAME)
