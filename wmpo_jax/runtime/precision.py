"""Matrix products: in which precision networks multiply, and the function that does it.

`products` is "float32", or "bfloat16": operands are rounded to bfloat16 and summed in float32, as
TPUs do by default. Parameters, norms, softmax and losses stay float32 either way.

On a CPU, XLA (jaxlib 0.10.2) reaches the units for bfloat16 (AMX, AVX512-BF16) only when the result
of a bfloat16 product is asked for in float32, and only if the contracted axes are contiguous: the
gradient of a kernel, which contracts the rows of both factors, needs a factor that is transposed in
memory. Left to itself XLA widens the operands and multiplies them in float32; and where it moves a
neighboring transposition into a product there may be no code for it at all, hence the barriers.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.sharding import parts_here

Products = Literal["float32", "bfloat16"]
CPU_FLAGS = {"amx_bf16", "avx512_bf16"}  # of /proc/cpuinfo


def choose_products(wanted: str, platform: str) -> Products:
    """What `config.products` means here: "auto" is bfloat16 where the hardware multiplies it.

    Args:
      wanted: "auto", "float32" or "bfloat16".
      platform: of the devices: "cpu", "gpu", "tpu".

    Raises:
      UserError: another word.
    """
    if wanted == "float32" or wanted == "bfloat16":
        return wanted
    if wanted != "auto":
        raise UserError(f"products is {wanted!r}: change it to auto, float32 or bfloat16.")
    return "bfloat16" if platform != "cpu" or cpu_multiplies_bfloat16() else "float32"


@functools.cache
def cpu_multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this machine's CPU has units for bfloat16; False where Linux does not say so."""
    try:
        text = cpuinfo.read_text(encoding="utf-8")
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return not CPU_FLAGS.isdisjoint(flags.split())


def dot_general(products: Products) -> Callable[..., jax.Array]:
    """The `dot_general` argument of `nnx.Linear`."""
    return _DOT_GENERAL[products]


def linear(x: jax.Array, kernel_IO: jax.Array, products: Products) -> jax.Array:
    """x @ kernel over the last axis of x (..., I), in the type of x; sums are float32."""
    product = _linear if products == "float32" and x.dtype != jnp.bfloat16 else _narrow_linear
    x_NI = x.reshape(-1, x.shape[-1])
    return product(x_NI, kernel_IO).reshape(*x.shape[:-1], -1)


def einsum(spec: str, a: jax.Array, b: jax.Array, products: Products) -> jax.Array:
    """`jnp.einsum` of two factors, in the type of the first; sums of narrow factors are float32."""
    dtype = a.dtype
    if products == "bfloat16" or dtype == jnp.bfloat16:
        return _wide(spec, _narrow(a), _narrow(b)).astype(dtype)
    return jnp.einsum(spec, a, b)


@jax.custom_vjp
def _linear(x_NI: jax.Array, kernel_IO: jax.Array) -> jax.Array:
    return x_NI @ kernel_IO


def _linear_forward(x_NI: jax.Array, kernel_IO: jax.Array) -> tuple[jax.Array, Any]:
    return x_NI @ kernel_IO, (x_NI, kernel_IO)


def _linear_backward(saved: Any, grad_NO: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The narrower factor comes first; the barrier keeps XLA from undoing the order."""
    x_NI, kernel_IO = saved
    if x_NI.shape[1] <= grad_NO.shape[1]:
        kernel_grad = jnp.einsum("ni,no->io", x_NI, grad_NO)
    else:
        kernel_grad = jax.lax.optimization_barrier(jnp.einsum("no,ni->oi", grad_NO, x_NI)).T
    return grad_NO @ kernel_IO.T, kernel_grad


_linear.defvjp(_linear_forward, _linear_backward)


def _narrow(a: jax.Array) -> jax.Array:
    return a.astype(jnp.bfloat16)


def _wide(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """The product of bfloat16 factors in float32."""

    def fenced(a: jax.Array, b: jax.Array) -> jax.Array:
        a, b = jax.lax.optimization_barrier((a, b))
        return jax.lax.optimization_barrier(multiply(a, b))

    def multiply(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)

    return jax.lax.platform_dependent(a, b, cpu=fenced, default=multiply)


@jax.custom_vjp
def _narrow_linear(x_NI: jax.Array, kernel_IO: jax.Array) -> jax.Array:
    return _narrow_forward(x_NI, kernel_IO)[0]


def _narrow_forward(x_NI: jax.Array, kernel_IO: jax.Array) -> tuple[jax.Array, Any]:
    # The narrow copies are kept for the backward pass: half the memory of float32 activations.
    narrow_x, narrow_kernel = _narrow(x_NI), _narrow(kernel_IO)
    like_x, like_kernel = jnp.zeros(0, x_NI.dtype), jnp.zeros(0, kernel_IO.dtype)
    y_NO = _wide("ni,io->no", narrow_x, narrow_kernel).astype(x_NI.dtype)
    return y_NO, (narrow_x, narrow_kernel, like_x, like_kernel)


def _narrow_backward(saved: Any, grad_NO: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_NI, kernel_IO, like_x, like_kernel = saved
    grad_NO = _narrow(grad_NO)
    x_grad = _wide("no,io->ni", grad_NO, kernel_IO)
    if parts_here() == 1:
        kernel_grad = jax.lax.platform_dependent(
            x_NI, grad_NO, cpu=_cpu_kernel_gradient, default=_kernel_gradient
        )
    else:  # a layout constraint is not partitioned: every device would gather all rows
        kernel_grad = _kernel_gradient(x_NI, grad_NO)
    return x_grad.astype(like_x.dtype), kernel_grad.astype(like_kernel.dtype)


def _kernel_gradient(x_NI: jax.Array, grad_NO: jax.Array) -> jax.Array:
    return _wide("ni,no->io", x_NI, grad_NO)


def _cpu_kernel_gradient(x_NI: jax.Array, grad_NO: jax.Array) -> jax.Array:
    """The same with x transposed in memory first (see the top)."""
    transposed = with_layout_constraint(x_NI.T, Layout(major_to_minor=(0, 1)))
    return _wide("in,no->io", transposed, grad_NO)


_narrow_linear.defvjp(_narrow_forward, _narrow_backward)


def _float32_dot_general(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    return linear(x, kernel, "float32")


def _bfloat16_dot_general(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    return linear(x, kernel, "bfloat16")


_DOT_GENERAL = {"float32": _float32_dot_general, "bfloat16": _bfloat16_dot_general}
