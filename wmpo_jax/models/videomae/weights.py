"""Hugging Face VideoMAEForVideoClassification names and layouts <-> ours, both ways."""

from typing import Any

import numpy as np

from wmpo_jax.models.videomae.model import VideoMAEConfig

Path = tuple[Any, ...]  # attribute names and list indices

# Our path, with the layer index written {}, -> Hugging Face key.
TOP = {
    "projection.kernel": "videomae.embeddings.patch_embeddings.projection.weight",
    "projection.bias": "videomae.embeddings.patch_embeddings.projection.bias",
    "fc_norm.scale": "fc_norm.weight",
    "fc_norm.bias": "fc_norm.bias",
    "classifier.kernel": "classifier.weight",
    "classifier.bias": "classifier.bias",
}
LAYER = {
    "layernorm_before.scale": "layernorm_before.weight",
    "layernorm_before.bias": "layernorm_before.bias",
    "attention.query.kernel": "attention.attention.query.weight",
    "attention.query.bias": "attention.attention.q_bias",
    "attention.key.kernel": "attention.attention.key.weight",
    "attention.value.kernel": "attention.attention.value.weight",
    "attention.value.bias": "attention.attention.v_bias",
    "attention.output.kernel": "attention.output.dense.weight",
    "attention.output.bias": "attention.output.dense.bias",
    "layernorm_after.scale": "layernorm_after.weight",
    "layernorm_after.bias": "layernorm_after.bias",
    "intermediate.kernel": "intermediate.dense.weight",
    "intermediate.bias": "intermediate.dense.bias",
    "output.kernel": "output.dense.weight",
    "output.bias": "output.dense.bias",
}


def hugging_face_name(path: Path) -> str:
    """Our parameter path -> original state-dict key."""
    if path[0] == "layers":
        tail = ".".join(str(part) for part in path[2:])
        return f"videomae.encoder.layer.{path[1]}.{LAYER[tail]}"
    return TOP[".".join(str(part) for part in path)]


def from_torch_layout(array: np.ndarray) -> np.ndarray:
    """Tubelet kernel (D, C, t, h, w) -> (t h w C, D), linear (out, in) -> (in, out); any dtype."""
    if array.ndim == 5:
        return array.transpose(2, 3, 4, 1, 0).reshape(-1, array.shape[0])
    return array.T if array.ndim == 2 else array


def to_torch_layout(array: np.ndarray, config: VideoMAEConfig, path: Path) -> np.ndarray:
    """The inverse of `from_torch_layout` for the parameter at `path`."""
    if path == ("projection", "kernel"):
        side = config.patch_size
        split = array.reshape(config.tubelet_size, side, side, 3, -1)
        return split.transpose(4, 3, 0, 1, 2)
    return array.T if array.ndim == 2 else array
