"""Which of a program's messages carry whole matrices where only parts should travel."""

import math
from collections.abc import Iterable

from wmpo_jax.planning.collectives import Collective, Matrices


def stray_gathers(found: Iterable[Collective], matrices: Matrices) -> list[Collective]:
    """Whole matrices, of one layer or of all at once, sent outside the loop over layers.

    TPUs gather a matrix by summing its padded parts, so that sums count too. Anything of more than
    two sides that has as many elements is taken for the matrix, split into heads perhaps; a layer's
    matrix that looks like one outside the stacks is not.
    """

    def looks_like(shape: tuple[int, ...], matrix: tuple[int, int], depth: int) -> bool:
        if len(shape) == 2:
            return tuple(sorted(shape)) == matrix and matrix not in matrices.loose
        return math.prod(shape) in (math.prod(matrix), depth * math.prod(matrix))

    def stray(shape: tuple[int, ...], loops: tuple[int, ...]) -> bool:
        depths = [
            depth
            for depth, layer in matrices.layers.items()
            if len(shape) > 1 and any(looks_like(shape, matrix, depth) for matrix in layer)
        ]
        return bool(depths) and not any(depth in loops for depth in depths)

    whole = [c for c in found if c.kind in ("all-gather", "all-reduce")]
    return [c for c in whole if any(stray(shape, c.loops) for shape in c.arrays)]
