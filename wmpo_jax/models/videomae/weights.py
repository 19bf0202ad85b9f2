"""Hugging Face VideoMAEForVideoClassification names and layouts <-> ours, both ways."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from wmpo_jax.models.videomae.model import VideoMAE, VideoMAEConfig
from wmpo_jax.runtime.errors import UserError

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


def from_hugging_face(tensors: Mapping[str, np.ndarray], config: VideoMAEConfig) -> nnx.State:
    """Parameters of `VideoMAE(config)` from a Hugging Face (or released WMPO) state dict.

    Args:
      tensors: original names and layouts, any float dtype.
      config: sizes that the tensors must have.

    Returns:
      float32 parameters, the `params` of `graphdef, params = nnx.split(model)`.

    Raises:
      UserError: a tensor is missing, unknown, or of another shape than `config` says.
    """
    expected = _abstract_params(config)
    names = {path: hugging_face_name(path) for path in expected}
    missing = sorted(set(names.values()) - set(tensors))
    unknown = sorted(set(tensors) - set(names.values()))
    if missing or unknown:
        raise UserError(
            f"These are not the VideoMAE weights of this config: missing {missing[:5]} "
            f"({len(missing)} in all), unknown {unknown[:5]} ({len(unknown)} in all); "
            "choose the matching preset or checkpoint."
        )
    loaded = {
        path: jnp.asarray(from_torch_layout(tensors[name]), jnp.float32)
        for path, name in names.items()
    }
    for path, array in loaded.items():
        if array.shape != expected[path].shape:
            raise UserError(
                f"VideoMAE weight {names[path]} has shape {array.shape} in our layout but the "
                f"config needs {expected[path].shape}; choose the preset of that checkpoint."
            )
    return nnx.from_flat_state({path: nnx.Param(array) for path, array in loaded.items()})


def to_hugging_face(params: nnx.State, config: VideoMAEConfig) -> dict[str, np.ndarray]:
    """Parameters (or gradients of the same tree) -> original names and layouts, float32."""
    return {
        hugging_face_name(path): np.ascontiguousarray(
            to_torch_layout(np.asarray(variable[...], np.float32), config, path)
        )
        for path, variable in nnx.to_flat_state(params)
    }


def hugging_face_name(path: Path) -> str:
    """Our parameter path -> original state-dict key."""
    if path[0] == "layers":
        tail = ".".join(str(part) for part in path[2:])
        return f"videomae.encoder.layer.{path[1]}.{LAYER[tail]}"
    return TOP[".".join(str(part) for part in path)]


def _abstract_params(config: VideoMAEConfig) -> dict[Path, jax.ShapeDtypeStruct]:
    model = nnx.eval_shape(lambda: VideoMAE(config, rngs=nnx.Rngs(0)))
    return {path: var.get_value() for path, var in nnx.to_flat_state(nnx.state(model, nnx.Param))}


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
