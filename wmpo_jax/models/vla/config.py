"""Sizes of the policy, from the laptop preset to OpenVLA-OFT 7B."""

from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp

from wmpo_jax.runtime.precision import Products

# Enough for the text tokens of tokenizer_tiny.json (495 now); the action tokens follow behind.
TINY_TEXT_TOKENS = 512


@dataclass(frozen=True)
class ViTConfig:
    """A vision transformer of timm's making: DINOv2 with registers, or SigLIP.

    Attributes:
      image_size, patch: pixels; the image is square and a multiple of the patch.
      depth: blocks of the original tower. Its last block is never computed (see `vision`).
      class_token, registers: learned tokens in front of the patches; they are dropped at the end.
      layer_scale: a learned gain per channel on each residual branch.
      products: precision of matrix products (`runtime.precision`).
      scan_layers: stack the blocks and scan them (see `models.layers`).
    """

    image_size: int
    patch: int
    width: int
    depth: int
    heads: int
    mlp_width: int
    class_token: bool = False
    registers: int = 0
    layer_scale: bool = False
    dtype: Any = jnp.float32
    products: Products = "float32"
    scan_layers: bool = False

    @property
    def n_patches(self) -> int:
        return (self.image_size // self.patch) ** 2

    @property
    def n_computed_blocks(self) -> int:
        return self.depth - 1

    @property
    def n_prefix(self) -> int:
        return int(self.class_token) + self.registers


@dataclass(frozen=True)
class LlamaConfig:
    """A Llama without grouped queries. `rms_norm_eps` is 1e-6 in OpenVLA, not Llama-2's 1e-5."""

    vocab_size: int
    width: int
    depth: int
    heads: int
    mlp_width: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    dtype: Any = jnp.float32
    products: Products = "float32"
    scan_layers: bool = False


@dataclass(frozen=True)
class VLAConfig:
    """The whole policy.

    Attributes:
      projector_width: hidden features of the projector (4 x the two towers' width in OpenVLA).
      chunk, action_dim: actions predicted at once (K) and their dimension (A).
      n_action_classes: V, classes per action dimension.
      n_unused_rows: rows of the vocabulary behind the action tokens (OpenVLA pads it by 64).
      stop_token: closes the sequence, behind the action slots.
      pad_token: fills prompts on the right; masked, so its embedding never matters.
      learned_slots: the action slots are learned vectors instead of the reference's zeros. A zero
        vector makes an empty query in the first layer, which a shallow decoder cannot afford.
    """

    dino: ViTConfig
    siglip: ViTConfig
    llama: LlamaConfig
    projector_width: int
    chunk: int
    action_dim: int
    n_action_classes: int
    n_unused_rows: int
    stop_token: int
    pad_token: int
    learned_slots: bool = False

    @property
    def image_size(self) -> int:
        return self.dino.image_size

    def scanned(self) -> "VLAConfig":
        """The same network with its layers stacked and scanned, as deep ones are trained."""
        parts = {"dino": self.dino, "siglip": self.siglip, "llama": self.llama}
        return replace(self, **{n: replace(part, scan_layers=True) for n, part in parts.items()})

    @property
    def action_token_begin(self) -> int:
        """Vocabulary id of action class 0 (31744 in OpenVLA)."""
        return self.llama.vocab_size - self.n_unused_rows - self.n_action_classes

    @classmethod
    def tiny(
        cls, action_dim: int, chunk: int, *, patch: int = 8, n_action_classes: int = 64
    ) -> "VLAConfig":
        """32 x 32 images, under a million parameters: learns on a laptop."""
        siglip = ViTConfig(image_size=32, patch=patch, width=64, depth=3, heads=2, mlp_width=128)
        return cls(
            dino=replace(siglip, class_token=True, registers=1, layer_scale=True),
            siglip=siglip,
            llama=LlamaConfig(
                vocab_size=TINY_TEXT_TOKENS + n_action_classes,
                width=128,
                depth=3,
                heads=4,
                mlp_width=256,
            ),
            projector_width=256,
            chunk=chunk,
            action_dim=action_dim,
            n_action_classes=n_action_classes,
            n_unused_rows=0,
            stop_token=2,
            pad_token=3,
            learned_slots=True,
        )

    @classmethod
    def small(cls, dtype: Any = jnp.float32) -> "VLAConfig":
        """OpenVLA-OFT's shape at 40 M parameters and 112 x 112 pixels, for measurements."""
        tower = ViTConfig(
            image_size=112, patch=14, width=384, depth=7, heads=6, mlp_width=1536, dtype=dtype
        )
        llama = LlamaConfig(
            vocab_size=32_064, width=384, depth=6, heads=6, mlp_width=1024, dtype=dtype
        )
        return replace(
            cls.openvla_7b(dtype),
            dino=replace(tower, class_token=True, registers=4, layer_scale=True),
            siglip=tower,
            llama=llama,
            projector_width=3072,
        )

    @classmethod
    def openvla_7b(cls, dtype: Any = jnp.bfloat16) -> "VLAConfig":
        """OpenVLA-OFT with discrete parallel decoding, as WMPO uses it."""
        return cls(
            dino=ViTConfig(
                image_size=224,
                patch=14,
                width=1024,
                depth=24,
                heads=16,
                mlp_width=4096,
                class_token=True,
                registers=4,
                layer_scale=True,
                dtype=dtype,
            ),
            siglip=ViTConfig(
                image_size=224,
                patch=14,
                width=1152,
                depth=27,
                heads=16,
                mlp_width=4304,
                dtype=dtype,
            ),
            llama=LlamaConfig(
                vocab_size=32_064,
                width=4096,
                depth=32,
                heads=32,
                mlp_width=11_008,
                dtype=dtype,
            ),
            projector_width=8704,
            chunk=8,
            action_dim=7,
            n_action_classes=256,
            n_unused_rows=64,
            stop_token=2,
            pad_token=32_000,
        )

    @classmethod
    def mid(cls, dtype: Any = jnp.bfloat16) -> "VLAConfig":
        """OpenVLA-OFT's shape at 0.6 B parameters, to be trained on one GPU."""
        tower = ViTConfig(
            image_size=224, patch=14, width=768, depth=12, heads=12, mlp_width=3072, dtype=dtype
        )
        llama = LlamaConfig(
            vocab_size=32_064, width=1024, depth=24, heads=16, mlp_width=2816, dtype=dtype
        )
        return replace(
            cls.openvla_7b(dtype),
            dino=replace(tower, class_token=True, registers=4, layer_scale=True),
            siglip=tower,
            llama=llama,
            projector_width=6144,
        )
