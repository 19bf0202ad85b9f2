"""Diffusers names and layouts <-> ours, both ways.

Modules are named as in diffusers; what differs is the last word (kernel / scale -> weight), the
axis order of kernels, and `to_out`, which diffusers wraps in a list.
"""

from typing import Any

import numpy as np

Path = tuple[Any, ...]  # attribute names and list indices


def diffusers_name(path: Path) -> str:
    """Our parameter path -> diffusers state-dict key."""
    *modules, leaf = (str(part) for part in path)
    name = ".".join([*modules, {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)])
    return name.replace("to_out.", "to_out.0.")


def from_torch_layout(array: np.ndarray) -> np.ndarray:
    """Conv OIHW -> HWIO, linear (out, in) -> (in, out), vectors as they are; any dtype."""
    order = {4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim)
    return array if order is None else array.transpose(order)


def to_torch_layout(array: np.ndarray) -> np.ndarray:
    """The inverse of `from_torch_layout`."""
    order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim)
    return array if order is None else array.transpose(order)
