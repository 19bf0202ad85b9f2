"""Actions as classes and back, exactly as OpenVLA bins them.

Reference at 09f60b7: dependencies/openvla-oft/prismatic/vla/action_tokenizer.py:31-68.

V bin edges divide [-1, 1] into V - 1 intervals, and an action becomes the number d of edges at or
below it. The class is k = V - d, so a LARGER class is a SMALLER action. There are only V - 1
interval centers: classes 0 (an action of exactly 1) and 1 both decode to the largest.
"""

from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np


def bin_edges(n_classes: int) -> np.ndarray:
    """float64 [V], evenly spaced over [-1, 1]."""
    return np.linspace(-1.0, 1.0, n_classes)


def bin_centers(n_classes: int) -> np.ndarray:
    """float64 [V - 1], ascending."""
    edges = bin_edges(n_classes)
    return (edges[:-1] + edges[1:]) / 2.0


def encode(actions: jax.Array | np.ndarray, n_classes: int) -> jax.Array | np.ndarray:
    """Normalized actions (any shape; clipped to [-1, 1]) -> int32 classes 0..V-1.

    NumPy arrays are compared in float64, as in the reference; JAX arrays in their own precision.
    """
    xp = _namespace(actions)
    edges_at_or_below = xp.digitize(xp.clip(actions, -1.0, 1.0), bin_edges(n_classes))
    return (n_classes - edges_at_or_below).astype(xp.int32)


def bin_index(classes: jax.Array | np.ndarray, n_classes: int) -> jax.Array | np.ndarray:
    """Class 0..V-1 -> index 0..V-2 of the interval whose center it stands for."""
    return _namespace(classes).clip(n_classes - 1 - classes, 0, n_classes - 2)


def decode(classes: jax.Array | np.ndarray, n_classes: int) -> jax.Array | np.ndarray:
    """Classes 0..V-1 -> normalized actions in (-1, 1): float32 from JAX, float64 from NumPy."""
    xp = _namespace(classes)
    return xp.take(xp.asarray(bin_centers(n_classes)), bin_index(classes, n_classes))


def soft_targets(actions_BKA: jax.Array, sigma_bins: float, n_classes: int) -> jax.Array:
    """Ordinal labels: a Gaussian over the classes around the action, normalized to sum to 1.

    target_k is proportional to exp(-(V - 1 - k - u)^2 / (2 sigma^2)), where u is the action
    measured in intervals (u = i at the center of interval i). Neighboring bins are nearly right,
    and saying so saves demonstrations; the reference uses hard labels, which is sigma 0.

    Args:
      actions_BKA: normalized actions, clipped to [-1, 1].
      sigma_bins: standard deviation in intervals; 0 gives the one-hot label of `encode`.

    Returns:
      targets_BKAV float32.
    """
    if sigma_bins == 0.0:
        return jax.nn.one_hot(encode(actions_BKA, n_classes), n_classes)
    u = (jnp.clip(actions_BKA, -1.0, 1.0) + 1.0) / 2.0 * (n_classes - 1) - 0.5
    place_V = jnp.arange(n_classes - 1, -1, -1, dtype=jnp.float32)
    distance = (place_V[None, None, None] - u[..., None]) / sigma_bins
    return jax.nn.softmax(-0.5 * jnp.square(distance), axis=-1)


def _namespace(array: jax.Array | np.ndarray) -> ModuleType:
    return jnp if isinstance(array, jax.Array) else np
