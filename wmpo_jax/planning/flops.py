"""Floating-point operations of a traced program, counted in its jaxpr.

The compiler's own count takes a scanned body once; here it is taken as often as it runs.
Only matrix products and convolutions count: the rest is a per cent of these networks.
"""

import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core


def count(closed: Any) -> float:
    """Operations (a multiplication and an addition are two) of a ClosedJaxpr, on all devices.

    What is recomputed in a backward pass counts again. Loops of unknown length count once.
    """
    return _count(closed.jaxpr)


def _count(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            total += _dot(equation)
        elif name == "conv_general_dilated":
            total += _convolution(equation)
        elif name == "scan":
            total += equation.params["length"] * _count(equation.params["jaxpr"].jaxpr)
        elif name == "cond":
            total += max(_count(branch.jaxpr) for branch in equation.params["branches"])
        else:
            total += sum(_count(inner) for inner in _inner(equation.params))
    return total


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
