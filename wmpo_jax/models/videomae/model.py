"""VideoMAE video classifier: has the task been solved at the end of this window of frames?

Plain pre-norm ViT over tubelets (WMPO section 3.2; reference: reward_model/videomae.py): fixed sine
positions, mean over tokens, one linear layer. One class for the released base size and for the tiny
one that is trained on a CPU.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from wmpo_jax.models.attention import attention
from wmpo_jax.models.dense import Dense
from wmpo_jax.models.layers import make_layers, run_layers
from wmpo_jax.models.videomae.preprocess import preprocess
from wmpo_jax.runtime import precision
from wmpo_jax.runtime.precision import Products
from wmpo_jax.runtime.sharding import spread_batch

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
ENCODER_EPSILON = 1e-12
HEAD_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class VideoMAEConfig:
    """Sizes of a classifier.

    Attributes:
      image_size: side of the square input in pixels.
      patch_size: side of a patch in pixels.
      num_frames: frames of a window (W).
      tubelet_size: consecutive frames that share a token.
      hidden_size, num_layers, num_heads, mlp_size: transformer sizes.
      num_labels: logits; for a task with G instructions 2 G, a (failure, success) pair per
        instruction.
      image_mean, image_std: normalization of pixels in [0, 1]. Released reward models were trained
        with 0.5 / 0.5 but their thresholds belong to ImageNet's (reference at 09f60b7:
        verl/workers/fsdp_workers.py:537).
      head: how logits become a success probability. "softmax_pairs": softmax over the pair of the
        instruction; "sigmoid": sigmoid of logit 1 alone, as WMPO thresholds its released
        classifiers (there are two labels then).
      dtype: compute dtype; parameters are float32.
      products: precision of matrix products (`runtime.precision`).
      scan_layers: stack the layers and scan them (see `models.layers`).
    """

    image_size: int
    patch_size: int
    num_frames: int
    tubelet_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    mlp_size: int
    num_labels: int = 2
    image_mean: tuple[float, float, float] = HALF
    image_std: tuple[float, float, float] = HALF
    head: Literal["softmax_pairs", "sigmoid"] = "softmax_pairs"
    dtype: jnp.dtype = jnp.float32  # pyright: ignore[reportAssignmentType]
    products: Products = "float32"
    scan_layers: bool = False

    @property
    def num_patches(self) -> int:
        """Patches of one frame (P)."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def num_tubelets(self) -> int:
        """Token layers of a window along time."""
        return self.num_frames // self.tubelet_size

    def scanned(self) -> "VideoMAEConfig":
        """The same network with its layers scanned: a twelfth of the code to compile."""
        return dataclasses.replace(self, scan_layers=True)

    @classmethod
    def base(cls) -> "VideoMAEConfig":
        """MCG-NJU/videomae-base with the window of 8 frames of the released reward models."""
        return cls(
            224, 16, 8, 2, 768, 12, 12, 3072, image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD
        )

    @classmethod
    def small(cls) -> "VideoMAEConfig":
        """11 M parameters at 128 x 128 pixels; between `tiny` and `base`, for measurements."""
        return dataclasses.replace(
            cls.base(), image_size=128, hidden_size=384, num_layers=6, num_heads=6, mlp_size=1536
        )

    @classmethod
    def tiny(
        cls, num_frames: int = 4, image_size: int = 32, num_labels: int = 2
    ) -> "VideoMAEConfig":
        """Made for a CPU; see the README for timings."""
        return cls(image_size, 8, num_frames, 2, 64, 3, 4, 256, num_labels)


def _linear(config: VideoMAEConfig, rngs: nnx.Rngs) -> Callable[..., Dense]:
    return functools.partial(Dense, dtype=config.dtype, products=config.products, rngs=rngs)


class SelfAttention(nnx.Module):
    """Full multi-head attention; queries and values have a bias, keys have none."""

    def __init__(self, config: VideoMAEConfig, *, rngs: nnx.Rngs):
        size, linear = config.hidden_size, _linear(config, rngs)
        self.num_heads = config.num_heads
        self.query = linear(size, size)
        self.key = linear(size, size, use_bias=False)
        self.value = linear(size, size)
        self.output = linear(size, size)

    def __call__(self, x_BSD: jax.Array) -> jax.Array:
        split = (*x_BSD.shape[:2], self.num_heads, -1)
        h_BSHD = attention(
            self.query(x_BSD).reshape(split),
            self.key(x_BSD).reshape(split),
            self.value(x_BSD).reshape(split),
        )
        return self.output(h_BSHD.reshape(x_BSD.shape))


class Block(nnx.Module):
    """x + attention(norm x), then x + mlp(norm x), with the exact (erf) GELU."""

    def __init__(self, config: VideoMAEConfig, *, rngs: nnx.Rngs):
        size, dtype, linear = config.hidden_size, config.dtype, _linear(config, rngs)
        norm = functools.partial(
            nnx.LayerNorm, size, epsilon=ENCODER_EPSILON, use_fast_variance=False, dtype=dtype
        )
        self.layernorm_before = norm(rngs=rngs)
        self.attention = SelfAttention(config, rngs=rngs)
        self.layernorm_after = norm(rngs=rngs)
        self.intermediate = linear(size, config.mlp_size)
        self.output = linear(config.mlp_size, size)

    def __call__(self, x_BSD: jax.Array) -> jax.Array:
        x_BSD = x_BSD + self.attention(self.layernorm_before(x_BSD))
        h_BSD = nnx.gelu(self.intermediate(self.layernorm_after(x_BSD)), approximate=False)
        return x_BSD + self.output(h_BSD)


class VideoMAE(nnx.Module):
    """Classifies windows of frames.

    `model(pixels)` is `model.classify(model.embed_windows(pixels))`; scoring a whole video goes
    through `project_frames` and `windows.score_windows` instead, which embeds each frame once.
    """

    def __init__(self, config: VideoMAEConfig, *, rngs: nnx.Rngs):
        self.config = config
        size, dtype, linear = config.hidden_size, config.dtype, _linear(config, rngs)
        patch = config.tubelet_size * config.patch_size**2 * 3
        self.projection = linear(patch, size)
        self.layers = make_layers(
            lambda rngs: Block(config, rngs=rngs), config.num_layers, config.scan_layers, rngs
        )
        self.fc_norm = nnx.LayerNorm(
            size, epsilon=HEAD_EPSILON, use_fast_variance=False, dtype=dtype, rngs=rngs
        )
        self.classifier = linear(size, config.num_labels)

    def __call__(self, pixels_BTHWC: jax.Array) -> jax.Array:
        """Normalized float windows (T = num_frames, see `preprocess`) -> float32 logits_BX."""
        tubelets_BTPD = self.embed_tubelets(pixels_BTHWC)[:, :: self.config.tubelet_size]
        return self.classify(tubelets_BTPD)

    def preprocess(self, frames_BTHWC: jax.Array) -> jax.Array:
        """uint8 frames of any size -> normalized float32 (B, T, image_size, image_size, 3)."""
        config = self.config
        return preprocess(frames_BTHWC, config.image_size, config.image_mean, config.image_std)

    def embed_tubelets(self, pixels_BTHWC: jax.Array) -> jax.Array:
        """One token per patch for the tubelet that starts at each frame, without positions.

        A tubelet's embedding is linear in its frames, so every frame is projected once for each
        place it can take in a tubelet and the shifted projections are added.

        Args:
          pixels_BTHWC: normalized float frames, T >= tubelet_size.

        Returns:
          tokens_BTPD: (B, T - tubelet_size + 1, P, D); entry t covers frames t .. t+tubelet_size-1.
        """
        config = self.config
        batch, frames, height, width, channels = pixels_BTHWC.shape
        rows, columns, side = (
            height // config.patch_size,
            width // config.patch_size,
            config.patch_size,
        )
        patches = pixels_BTHWC.reshape(batch, frames, rows, side, columns, side, channels)
        patches = patches.swapaxes(3, 4).reshape(batch, frames, rows * columns, -1)
        kernel = self.projection.kernel[...]
        patches = patches.astype(config.dtype)
        count = frames - config.tubelet_size + 1
        bias_D = self.projection.bias[...].astype(config.dtype)  # pyright: ignore
        tokens_BTPD = bias_D[None, None, None]
        for place, weight in enumerate(jnp.split(kernel, config.tubelet_size)):
            part = patches[:, place : place + count]
            tokens_BTPD = tokens_BTPD + precision.linear(part, weight, config.products)
        return tokens_BTPD

    def classify(self, tubelets_BTPD: jax.Array) -> jax.Array:
        """The num_tubelets token layers of each window -> float32 logits_BX."""
        tokens_BSD = self.add_positions(tubelets_BTPD)
        tokens_BSD = run_layers(self.layers, spread_batch(tokens_BSD))
        return self.classifier(self.fc_norm(tokens_BSD.mean(1))).astype(jnp.float32)

    def add_positions(self, tubelets_BTPD: jax.Array) -> jax.Array:
        """Flattens (time, patch) to one token axis, time outermost, and adds the sine table."""
        batch, _, _, size = tubelets_BTPD.shape
        tokens_BSD = tubelets_BTPD.reshape(batch, -1, size)
        positions_SD = sine_positions(tokens_BSD.shape[1], size).astype(tokens_BSD.dtype)
        return tokens_BSD + positions_SD[None]


def sine_positions(count: int, size: int) -> np.ndarray:
    """(count, size) float32: sine (even entries) and cosine (odd) of position / 10000^(2i/size)."""
    exponent = 2 * (np.arange(size) // 2) / size
    angle = np.arange(count)[:, None] / np.power(10000.0, exponent)
    return np.where(np.arange(size) % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)
