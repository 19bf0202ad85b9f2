"""Low-rank adapters for the policy's linear layers: y = W x + b + (alpha / rank) (x A) B.

As OpenVLA-OFT is fine-tuned (reference at 09f60b7:
dependencies/openvla-oft/vla-scripts/finetune.py:846-854): rank 32, alpha 16, on every linear layer
of towers, projector and language model; A is Gaussian, B zero, so training starts from the policy
as it is.

    add_lora(policy, rngs=nnx.Rngs(0))
    graphdef, adapters, frozen = nnx.split(policy, nnx.LoRAParam, ...)  # train `adapters` alone
    merge_lora(policy, pixels_BHWC, prompt_BL)  # a plain policy again, ready for export
"""

from collections.abc import Iterator
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from wmpo_jax.models.vla.policy import VLA

Kind = TypeVar("Kind", bound=nnx.Module)


class LoRALinear(nnx.Module):
    """A linear layer with an adapter beside it; the layer's own parameters stay `nnx.Param`."""

    def __init__(self, linear: nnx.Linear, rank: int, alpha: float, *, rngs: nnx.Rngs):
        *layers, inner, outer = linear.kernel.shape  # scanned layers are stacked
        # PEFT's "gaussian" initialization has a standard deviation of 1 / rank.
        self.a = nnx.LoRAParam(jax.random.normal(rngs.params(), (*layers, inner, rank)) / rank)
        self.b = nnx.LoRAParam(jnp.zeros((*layers, rank, outer)))
        self.linear = linear
        self.scale = alpha / rank

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.linear(x)
        a, b = (matrix[...].astype(y.dtype) for matrix in (self.a, self.b))
        return y + self.scale * (x.astype(y.dtype) @ a) @ b

    def merged(self) -> nnx.Linear:
        """The linear layer with the adapter added to its kernel, summed in float32."""
        kernel = self.linear.kernel
        with jax.default_matmul_precision("highest"):
            update = self.scale * self.a[...].astype(jnp.float32) @ self.b[...].astype(jnp.float32)
        total = kernel[...].astype(jnp.float32) + update
        kernel[...] = total.astype(kernel[...].dtype)
        return self.linear


def add_lora(policy: VLA, rank: int = 32, alpha: float = 16.0, *, rngs: nnx.Rngs) -> None:
    """Gives every linear layer of `policy` an adapter, in place. The outputs do not change."""
    for module, name, layer in _children(policy, nnx.Linear):
        setattr(module, name, LoRALinear(layer, rank, alpha, rngs=rngs))


def fold_lora(policy: VLA) -> None:
    """Folds the adapters into the weights, in place."""
    for module, name, layer in _children(policy, LoRALinear):
        setattr(module, name, layer.merged())


def merge_lora(policy: VLA, pixels_BHWC: jax.Array, prompt_BL: jax.Array) -> float:
    """`fold_lora`, and returns how much that changes the outputs.

    Args:
      policy: with adapters.
      pixels_BHWC, prompt_BL: an input to compare on (see `VLA.__call__`).

    Returns:
      The largest difference of the logits before and after, which is also printed. Rounding
      alone in float32; with bfloat16 weights, the rounding of the merged kernels.
    """
    forward = nnx.jit(lambda model, *inputs: model(*inputs))
    before = forward(policy, pixels_BHWC, prompt_BL)
    fold_lora(policy)
    after = forward(policy, pixels_BHWC, prompt_BL)
    difference = float(jnp.abs(after - before).max())
    print(f"merged adapters: logits up to {float(jnp.abs(before).max()):.3g} ", end="")
    print(f"moved by at most {difference:.3g}")
    return difference


def _children(policy: VLA, kind: type[Kind]) -> Iterator[tuple[nnx.Module, str, Kind]]:
    """Every submodule of a kind, with its owner and name there."""
    modules = [module for _, module in nnx.iter_modules(policy)]
    for module in modules:
        for name, child in list(vars(module).items()):
            if isinstance(child, kind):
                yield module, name, child
