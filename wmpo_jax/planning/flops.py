"""Floating-point operations of a traced program, counted in its jaxpr.

The compiler's own count takes a scanned body once; here it is taken as often as it runs.
Only matrix products and convolutions count: the rest is a per cent of these networks.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

from jax.extend import core


def count(closed: Any) -> float:
    """Operations (a multiplication and an addition are two) of a ClosedJaxpr, on all devices.

    What is recomputed in a backward pass counts again. Loops of unknown length count once.
    """
    return _total(closed.jaxpr, _operations)


def traffic(closed: Any) -> float:
    """Bytes that the same products read and write, every operand and result once.

    It is what a chip has to move if everything between the products is fused into them.
    """
    return _total(closed.jaxpr, _moved)


def _total(jaxpr: Any, of: Callable[[Any], float]) -> float:
    """Sum of `of` over products and convolutions."""
    total = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in ("dot_general", "conv_general_dilated"):
            total += of(equation)
        elif name == "scan":
            total += equation.params["length"] * _total(equation.params["jaxpr"].jaxpr, of)
        elif name == "cond":
            total += max(_total(branch.jaxpr, of) for branch in equation.params["branches"])
        else:
            total += sum(_total(inner, of) for inner in _inner(equation.params))
    return total


def _operations(equation: Any) -> float:
    is_dot = equation.primitive.name == "dot_general"
    return _dot(equation) if is_dot else _convolution(equation)


def _moved(equation: Any) -> float:
    arrays = [var.aval for var in (*equation.invars, *equation.outvars)]
    return float(sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays))


def _inner(parameters: dict[str, Any]) -> Iterator[Any]:
    """Jaxprs among the parameters of a call."""
    for value in parameters.values():
        if isinstance(value, core.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, core.Jaxpr):
            yield value


def _dot(equation: Any) -> float:
    (contracting, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    depth = math.prod(left[axis] for axis in contracting)
    return 2.0 * depth * math.prod(equation.outvars[0].aval.shape)


def _convolution(equation: Any) -> float:
    """Each output is a sum over the kernel's window and input channels."""
    kernel = equation.invars[1].aval.shape
    out_features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / out_features
