"""A head that draws frames at full resolution, partly by moving what is there already.

The released network maps each token linearly to its patch. A small network with patches of 8x8
pixels then draws a tool at rest as blurred as one that moves: see
docs/results/world_model_ablation.md. Here a token gives features to every latent pixel, a small
network that all pixels share turns them into an output, and copies of the input frame, displaced
by what the action says, are blended in (as in Finn, Goodfellow and Levine, Unsupervised learning
for physical interaction through video prediction, 2016).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from wmpo_jax.models.autoencoder_kl.model import depth_to_space, space_to_depth
from wmpo_jax.models.dense import zeros
from wmpo_jax.models.stdit.attention import dense
from wmpo_jax.models.stdit.blocks import layer_norm
from wmpo_jax.models.stdit.config import STDiTConfig

AROUND = 3  # latent pixels along a side that the head sees of its input
EXPANSION = 2
# Pixels that a weight of 1 moves a copy. Optimizers move all weights by about the learning rate, so
# that weights in pixels would take thousands of steps to reach the few pixels that things move.
REACH = 8.0
FIRST_MOTION = 0.1  # standard deviation of the first weights: enough to tell copies apart


class FineLayer(nnx.Module):
    """x += MLP(LayerNorm(x)) at every latent pixel."""

    def __init__(self, config: STDiTConfig, *, rngs: nnx.Rngs):
        inner = EXPANSION * config.fine
        self.fc1 = dense(config, config.fine, inner, rngs=rngs)
        self.fc2 = dense(config, inner, config.fine, kernel_init=zeros, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.fc2(nnx.gelu(self.fc1(layer_norm(x))))


class FineHead(nnx.Module):
    """Tokens (B, K, S, D) and the frames that the network was given -> its output, float32.

    The output is meant as a difference from those frames (`prediction` "residual"), and is zero
    before training.
    """

    def __init__(self, config: STDiTConfig, *, rngs: nnx.Rngs):
        self.config = config
        rows, columns = config.patch
        fine, channels = config.fine, config.in_channels
        self.unpatch = dense(config, config.hidden, rows * columns * fine, rngs=rngs)
        self.around = dense(config, AROUND**2 * channels, fine, rngs=rngs)
        self.layers = nnx.List(FineLayer(config, rngs=rngs) for _ in range(config.fine_layers))
        self.out = dense(config, fine, channels, kernel_init=zeros, rngs=rngs)
        if config.copies:
            self.seen = dense(config, config.copies * channels, fine, rngs=rngs)
            self.copies = Copies(config, rngs=rngs)

    def __call__(
        self, x_BKSD: jax.Array, given_BKHWC: jax.Array, actions_BKA: jax.Array
    ) -> jax.Array:
        config = self.config
        h, w = given_BKHWC.shape[2:4]
        given = given_BKHWC.reshape(-1, *given_BKHWC.shape[2:])
        features = self._spread(self.unpatch(x_BKSD), h, w) + self.around(_neighbors(given))
        changes: list[jax.Array] = []
        if config.copies:
            changes = self.copies.changes(x_BKSD, given, actions_BKA)
            features += self.seen(jnp.concatenate(changes, axis=-1))
        for layer in self.layers:
            features = layer(features)
        features = layer_norm(features)
        out = self.out(features)
        if config.copies:
            out += self.copies.blend(features, changes)
        return out.reshape(given_BKHWC.shape).astype(jnp.float32)

    def _spread(self, patches_BKSX: jax.Array, height: int, width: int) -> jax.Array:
        """Patches, laid out (rows, columns, features), to whole maps (B * K, H, W, features)."""
        rows, columns = self.config.patch
        grid_h, grid_w = -(-height // rows), -(-width // columns)
        maps = patches_BKSX.reshape(-1, grid_h, grid_w, rows, columns, self.config.fine)
        maps = maps.swapaxes(2, 3).reshape(-1, grid_h * rows, grid_w * columns, self.config.fine)
        return maps[:, :height, :width]


class Copies(nnx.Module):
    """Copies of a frame, each displaced as a whole, and how they are blended pixel by pixel.

    How far a copy goes is linear in the action and in the mean of the frame's tokens, which knows
    where things are. All are in the layout of latents, and differences from the frame.
    """

    def __init__(self, config: STDiTConfig, *, rngs: nnx.Rngs):
        self.config = config
        count, actions = config.copies, config.action_dim
        first = nnx.initializers.normal(FIRST_MOTION)
        self.by_action = dense(config, actions, 2 * count, kernel_init=first, rngs=rngs)
        self.by_tokens = dense(config, config.hidden, 2 * count, kernel_init=zeros, rngs=rngs)
        self.masks = dense(config, config.fine, config.pixel_side**2 * (count + 1), rngs=rngs)

    def changes(
        self, x_BKSD: jax.Array, given_NHWC: jax.Array, actions_BKA: jax.Array
    ) -> list[jax.Array]:
        """What each copy would change of the frames, (N, H, W, C); N = B * K."""
        side = self.config.pixel_side
        moves = REACH * (self.by_action(actions_BKA) + self.by_tokens(x_BKSD.mean(axis=2)))
        moves_NM2 = moves.reshape(len(given_NHWC), -1, 2).astype(jnp.float32)
        frame_NYXC = depth_to_space(given_NHWC, side)
        moved_NMYXC = displaced(frame_NYXC, moves_NM2)
        return [
            space_to_depth(moved_NMYXC[:, m], side) - given_NHWC for m in range(self.config.copies)
        ]

    def blend(self, features_NHWD: jax.Array, changes: list[jax.Array]) -> jax.Array:
        """The mean of the changes, weighted at every pixel; the frame itself has a weight too."""
        side = self.config.pixel_side
        logits = self.masks(features_NHWD).astype(jnp.float32)
        logits = logits.reshape(*logits.shape[:-1], side**2, 1, len(changes) + 1)
        share = jax.nn.softmax(logits)
        pixels = [change.reshape(*change.shape[:-1], side**2, -1) for change in changes]
        blended = sum(share[..., m] * change for m, change in enumerate(pixels))
        return jnp.reshape(blended, changes[0].shape)


def displaced(frame_NYXC: jax.Array, moves_NM2: jax.Array) -> jax.Array:
    """Copies (N, M, Y, X, C) moved down and right by so many pixels, with linear interpolation.

    At the borders, and beyond, there is nothing to copy: zeros.
    """
    rows, columns = frame_NYXC.shape[1:3]
    down_NMYY = _shifts(moves_NM2[..., 0], rows)
    right_NMXX = _shifts(moves_NM2[..., 1], columns)
    moved_NMYXC = jnp.einsum("nmyi,nixc->nmyxc", down_NMYY, frame_NYXC)
    return jnp.einsum("nmxi,nmyic->nmyxc", right_NMXX, moved_NMYXC)


def _shifts(move_NM: jax.Array, count: int) -> jax.Array:
    """Matrices (N, M, count, count) that shift a row by `move`."""
    place = jnp.arange(count, dtype=jnp.float32)
    apart = (place[:, None] - place[None])[None, None]
    distance = apart - move_NM[..., None, None]
    return jnp.maximum(0.0, 1.0 - jnp.abs(distance))


def _neighbors(x_NHWC: jax.Array) -> jax.Array:
    """Every latent pixel and those around it, (N, H, W, AROUND^2 * C); zeros outside."""
    _, h, w, _ = x_NHWC.shape
    r = AROUND // 2
    padded = jnp.pad(x_NHWC, ((0, 0), (r, r), (r, r), (0, 0)))
    shifted = [padded[:, i : i + h, j : j + w] for i in range(AROUND) for j in range(AROUND)]
    return jnp.concatenate(shifted, axis=-1)
