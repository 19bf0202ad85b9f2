"""A function of rows applied to a few rows at a time, so that only those are in memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wmpo_jax.runtime.sharding import parts_here, spread_batch


def map_rows(function: Callable[[jax.Array], Any], rows_BX: jax.Array, micro_batch: int) -> Any:
    """`function(rows_BX)` in equal pieces of at most `micro_batch` rows per device.

    Piece i takes every n-th row, beginning with row i. So when the rows are spread over devices,
    every device works on its own rows in every piece and nothing is moved.

    Args:
      function: rows -> pytree of arrays with the same leading axis, row by row independent.
    """
    count = rows_BX.shape[0]
    pieces = -(-count // (micro_batch * parts_here()))
    if pieces == 1:
        return function(rows_BX)
    size = -(-count // pieces)
    padded = jnp.pad(rows_BX, [(0, pieces * size - count)] + [(0, 0)] * (rows_BX.ndim - 1))
    dealt = padded.reshape(size, pieces, *rows_BX.shape[1:]).swapaxes(0, 1)
    out = jax.lax.map(lambda piece: function(spread_batch(piece)), dealt)
    return jax.tree.map(
        lambda leaf: leaf.swapaxes(0, 1).reshape(pieces * size, *leaf.shape[2:])[:count], out
    )
