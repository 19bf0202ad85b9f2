"""The linear layer of every network: float32 parameters, products as `runtime.precision` says."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from wmpo_jax.runtime import precision
from wmpo_jax.runtime.precision import Products

xavier = nnx.initializers.xavier_uniform()
lecun = nnx.initializers.lecun_normal()
zeros = nnx.initializers.zeros_init()


class Dense(nnx.Linear):
    """y = x kernel + bias over the last axis, in `dtype`; sums are float32.

    The kernel is rounded inside the product, so that its gradient has the kernel's own type: on
    several chips gradients of float32 parameters are summed in float32, as in the reference.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        dtype: DTypeLike = jnp.float32,
        products: Products = "float32",
        use_bias: bool = True,
        kernel_init: nnx.Initializer = lecun,
        bias_init: nnx.Initializer = zeros,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            inputs,
            outputs,
            use_bias=use_bias,
            dtype=dtype,
            kernel_init=kernel_init,
            bias_init=bias_init,
            dot_general=precision.dot_general(products),
            promote_dtype=_all_but_kernel,
            rngs=rngs,
        )


def _all_but_kernel(arrays: Any, *, dtype: Any = None, **_: Any) -> Any:
    x, kernel, bias = arrays
    return x.astype(dtype), kernel, None if bias is None else bias.astype(dtype)
