"""Attention of every query to every key, by the best kernel that JAX keeps for the place.

On NVIDIA GPUs that is cuDNN's fused attention, which never writes the scores to memory; elsewhere
XLA's own. cuDNN is chosen while a program is traced, where all of this holds: the default devices
are NVIDIA GPUs of compute capability 8.0 or more; queries, keys and values are bfloat16 or float16;
features of a head are a multiple of 8, up to 256 (128 before Hopper); and lengths are even where
there is a mask, which the gradient needs. A program that is traced on another machine, such as a
plan, has XLA's.
"""

import functools

import jax
import jax.numpy as jnp

NARROW = (jnp.bfloat16, jnp.float16)
HOPPER, AMPERE = (9, 0), (8, 0)


def attention(
    query_BQHD: jax.Array,
    key_BSHD: jax.Array,
    value_BSHD: jax.Array,
    mask_BHQS: jax.Array | None = None,
) -> jax.Array:
    """softmax(query key^T / sqrt(D)) value, [B, Q, H, D]; the softmax is float32.

    Args:
      mask_BHQS: bool, True where a query sees a key; B, H and Q may be 1.
    """
    lengths = (query_BQHD.shape[1], key_BSHD.shape[1]) if mask_BHQS is not None else ()
    fused = fits_cudnn(query_BQHD.dtype, query_BQHD.shape[-1], lengths, capability())
    return jax.nn.dot_product_attention(
        query_BQHD, key_BSHD, value_BSHD, mask=mask_BHQS, implementation="cudnn" if fused else "xla"
    )


def fits_cudnn(
    dtype: jax.typing.DTypeLike,
    head_dim: int,
    masked_lengths: tuple[int, ...],
    device: tuple[int, int] | None,
) -> bool:
    """Whether cuDNN has a kernel; see the top.

    Args:
      masked_lengths: of queries and keys, where there is a mask.
      device: compute capability; None where there is no NVIDIA GPU.
    """
    if device is None or device < AMPERE or jnp.dtype(dtype) not in map(jnp.dtype, NARROW):
        return False
    most = 256 if device >= HOPPER else 128
    return head_dim % 8 == 0 and head_dim <= most and all(n % 2 == 0 for n in masked_lengths)


@functools.cache
def capability() -> tuple[int, int] | None:
    """CUDA's compute capability of the default devices; None where they are no NVIDIA GPUs."""
    device = jax.devices()[0]
    if device.platform != "gpu" or "cuda" not in device.client.platform_version.lower():
        return None
    major, minor = map(int, device.compute_capability.split("."))
    return major, minor
