"""A linear layer whose backward pass is fast on a CPU.

Left to itself, XLA:CPU transposes the incoming gradient before it multiplies it with the inputs.
In the order below, the same product runs at the speed of the forward pass (twice as fast).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

xavier = nnx.initializers.xavier_uniform()


class Dense(nnx.Module):
    """y = x kernel + bias over the last axis; float32 parameters, computation in `dtype`.

    Weights are Xavier-uniform or as given by `kernel_init`, biases zero or as by `bias_init`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        dtype: DTypeLike,
        kernel_init: nnx.Initializer = xavier,
        bias_init: nnx.Initializer = nnx.initializers.zeros,
        rngs: nnx.Rngs,
    ):
        self.dtype = dtype
        self.kernel = nnx.Param(kernel_init(rngs.params(), (inputs, outputs), jnp.float32))
        self.bias = nnx.Param(bias_init(rngs.params(), (outputs,), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        x, kernel, bias = (a.astype(self.dtype) for a in (x, self.kernel[...], self.bias[...]))
        rows = x.reshape(-1, x.shape[-1])
        return (_matmul(rows, kernel) + bias[None]).reshape(*x.shape[:-1], -1)


@jax.custom_vjp
def _matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return x @ kernel


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x @ kernel, (x, kernel)


def _backward(saved: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The narrower factor comes first; the barrier keeps XLA from undoing the order."""
    x, kernel = saved
    if x.shape[1] <= grad.shape[1]:
        kernel_grad = jnp.einsum("ni,no->io", x, grad)
    else:
        kernel_grad = jax.lax.optimization_barrier(jnp.einsum("no,ni->oi", grad, x)).T
    return grad @ kernel.T, kernel_grad


_matmul.defvjp(_forward, _backward)
