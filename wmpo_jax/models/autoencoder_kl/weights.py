"""Diffusers names and layouts <-> ours, both ways.

Modules are named as in diffusers; what differs is the last word (kernel / scale -> weight), the
axis order of kernels, and `to_out`, which diffusers wraps in a list.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from wmpo_jax.models.autoencoder_kl.model import AutoencoderKL, AutoencoderKLConfig
from wmpo_jax.runtime.errors import UserError

Path = tuple[Any, ...]  # attribute names and list indices


def from_diffusers(tensors: Mapping[str, np.ndarray], config: AutoencoderKLConfig) -> nnx.State:
    """Parameters of `AutoencoderKL(config)` from a diffusers state dict.

    Args:
      tensors: diffusers names, channels-first arrays of any float dtype.
      config: sizes that the tensors must have.

    Returns:
      float32 parameters, the `params` of `graphdef, params = nnx.split(model)`.

    Raises:
      UserError: a tensor is missing, unknown, or of another shape than `config` says.
    """
    expected = _abstract_params(config)
    names = {path: diffusers_name(path) for path in expected}
    missing = sorted(set(names.values()) - set(tensors))
    unknown = sorted(set(tensors) - set(names.values()))
    if missing or unknown:
        raise UserError(
            f"These are not the autoencoder weights of this config: missing {missing[:5]} "
            f"({len(missing)} in all), unknown {unknown[:5]} ({len(unknown)} in all); "
            "choose the matching preset or checkpoint folder."
        )
    loaded = {
        path: jnp.asarray(from_torch_layout(tensors[name]), jnp.float32)
        for path, name in names.items()
    }
    for path, array in loaded.items():
        if array.shape != expected[path].shape:
            raise UserError(
                f"Autoencoder weight {names[path]} has shape {array.shape} in our layout but the "
                f"config needs {expected[path].shape}; choose the preset of that checkpoint."
            )
    return nnx.from_flat_state({path: nnx.Param(array) for path, array in loaded.items()})


def to_diffusers(params: nnx.State) -> dict[str, np.ndarray]:
    """Parameters (or gradients of the same tree) -> diffusers names and layout, float32."""
    return {
        diffusers_name(path): np.ascontiguousarray(
            to_torch_layout(np.asarray(variable[...], np.float32))
        )
        for path, variable in nnx.to_flat_state(params)
    }


def diffusers_name(path: Path) -> str:
    """Our parameter path -> diffusers state-dict key."""
    *modules, leaf = (str(part) for part in path)
    name = ".".join([*modules, {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)])
    return name.replace("to_out.", "to_out.0.")


def _abstract_params(config: AutoencoderKLConfig) -> dict[Path, jax.ShapeDtypeStruct]:
    model = nnx.eval_shape(lambda: AutoencoderKL(config, rngs=nnx.Rngs(0)))
    return {path: var.get_value() for path, var in nnx.to_flat_state(nnx.state(model, nnx.Param))}


def from_torch_layout(array: np.ndarray) -> np.ndarray:
    """Conv OIHW -> HWIO, linear (out, in) -> (in, out), vectors as they are; any dtype."""
    order = {4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim)
    return array if order is None else array.transpose(order)


def to_torch_layout(array: np.ndarray) -> np.ndarray:
    """The inverse of `from_torch_layout`."""
    order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim)
    return array if order is None else array.transpose(order)
