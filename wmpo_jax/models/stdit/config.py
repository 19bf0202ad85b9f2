"""Sizes of the world-model network: one class for the laptop and for the released 1.2-B model."""

import dataclasses

import jax.numpy as jnp
from jax.typing import DTypeLike

from wmpo_jax.runtime.precision import Products


@dataclasses.dataclass(frozen=True)
class STDiTConfig:
    """Sizes and numerics of an STDiT (reference: opensora/models/stdit/stdit3.py:209-261).

    Attributes:
      in_channels: latent channels C.
      patch: rows and columns of latent pixels that make one token.
      hidden, heads: width, attention heads (hidden / heads is even).
      mlp_ratio: expansion of the blocks' MLPs.
      depth: number of pairs (one spatial block, then one temporal block).
      pred_sigma: the output has 2C channels, of which only the first C are used (as released).
      action_dim: length of the conditioning vector of one frame.
      history, chunk: condition frames, then predicted frames, of a window.
      fine: features of every latent pixel in a head that draws the output at full resolution
        (`refine.FineHead`); 0 for the released linear map from a token to its patch.
      fine_layers: its residual layers.
      copies: displaced copies of a frame that the head blends; only with `fine`.
      pixel_side: squares of so many pixels are the channels of a latent pixel, where latents are
        pixels; copies are moved by fractions of these.
      input_square_px: image side at which neighboring tokens are one unit of position apart.
      dtype: compute type. bfloat16 also rounds rotary frequencies, timesteps and positions as the
        released model does (stdit3.py:412-418); parameters are float32 either way.
      products: precision of matrix products (`runtime.precision`).
      scan_layers: compile one pair and loop over it, with rematerialization in the backward pass
        (deep models). False unrolls the pairs, which is faster for shallow ones.
    """

    in_channels: int
    patch: tuple[int, int]
    hidden: int
    depth: int
    heads: int
    action_dim: int
    history: int
    chunk: int
    mlp_ratio: float = 4.0
    pred_sigma: bool = True
    fine: int = 0
    fine_layers: int = 2
    copies: int = 0
    pixel_side: int = 1
    input_square_px: int = 512
    dtype: DTypeLike = jnp.float32
    products: Products = "float32"
    scan_layers: bool = False

    @property
    def frames(self) -> int:
        return self.history + self.chunk

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def out_channels(self) -> int:
        return self.in_channels * (2 if self.pred_sigma else 1)

    @classmethod
    def tiny(cls, action_dim: int, chunk: int, history: int) -> "STDiTConfig":
        """About 1.5 M parameters for 8x8x4 latents (16 tokens a frame); trains on one CPU core."""
        return cls(
            in_channels=4,
            patch=(2, 2),
            hidden=128,
            depth=3,
            heads=4,
            action_dim=action_dim,
            history=history,
            chunk=chunk,
            pred_sigma=False,
        )

    @classmethod
    def small(cls) -> "STDiTConfig":
        """26 M parameters for 16x16x4 latents; between `tiny` and `mid`, for measurements."""
        return dataclasses.replace(
            cls.xl_2(), hidden=384, depth=6, heads=6, dtype=jnp.float32, scan_layers=False
        )

    @classmethod
    def xl_2(cls) -> "STDiTConfig":
        """STDiT3-XL/2 as WMPO released it: 0.91 B used parameters, 12 frames of 32x32x4 latents."""
        return cls(
            in_channels=4,
            patch=(2, 2),
            hidden=1152,
            depth=28,
            heads=16,
            action_dim=7,
            history=4,
            chunk=8,
            dtype=jnp.bfloat16,
            scan_layers=True,
        )

    @classmethod
    def mid(cls) -> "STDiTConfig":
        """`xl_2` at 0.3 B parameters, to be trained on one GPU."""
        return dataclasses.replace(cls.xl_2(), hidden=768, depth=20, heads=12)
