"""Messages between policies and robots: msgpack with NumPy arrays, as openpi-client has it.

An array is a map with the keys `__ndarray__`, `data`, `dtype` and `shape` (as bytes), a NumPy
scalar one with `__npgeneric__`. Nothing that is received is executed: no pickles, no objects.
"""

import math
import re
from typing import Any

import msgpack  # flax brings it
import numpy as np

from wmpo_jax.runtime.errors import UserError

MOST_BYTES = 64 * 2**20  # of one message: several cameras of 1080 rows
_KINDS = "biufSU"  # of array elements: no objects, no records
_DTYPE = re.compile(rf"[<>|=]?[{_KINDS}?]\d*")


def pack(value: Any) -> bytes:
    """One message of nested dicts, lists, text, numbers and NumPy arrays."""
    return msgpack.Packer(default=_packed).pack(value)


def unpack(message: bytes) -> Any:
    """What `pack` (ours or openpi-client's) was given; arrays are read-only.

    Raises:
      UserError: it is not msgpack, or an array in it contradicts itself.
    """
    try:
        return msgpack.unpackb(message, object_hook=_unpacked)
    except (ValueError, TypeError, KeyError, OverflowError, msgpack.UnpackException) as error:
        reason = str(error)[:100] or type(error).__name__
        raise UserError(
            f"The message is not msgpack with NumPy arrays ({reason}): use openpi-client, or pack "
            "as it does."
        ) from error


def _packed(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind not in _KINDS:
        raise ValueError(f"arrays of {value.dtype} cannot be sent")
    if isinstance(value, np.ndarray):
        return {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": value.shape,
        }
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise ValueError(f"a {type(value).__name__} cannot be sent")


def _unpacked(entry: dict[Any, Any]) -> Any:
    if b"__ndarray__" in entry:
        dtype, shape = _dtype(entry), tuple(entry[b"shape"])
        if any(type(size) is not int or size < 0 for size in shape):
            raise ValueError(f"an array has the shape {shape}")
        if len(entry[b"data"]) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"an array of shape {shape} has {len(entry[b'data'])} bytes")
        return np.frombuffer(entry[b"data"], dtype).reshape(shape)
    if b"__npgeneric__" in entry:
        return _dtype(entry).type(entry[b"data"])
    return entry


def _dtype(entry: dict[Any, Any]) -> np.dtype:
    text = entry[b"dtype"]
    if not isinstance(text, str) or not _DTYPE.fullmatch(text):
        raise ValueError(f"an array has the type {str(text)[:40]}")
    return np.dtype(text)
