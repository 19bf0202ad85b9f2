"""The world-model network: predicts the velocity (or any target) of noisy latent frames.

A window is `history` condition frames, then `chunk` frames that the chunk's actions cause. The
network is given which frames are condition frames; to those it says "t = 15" and no action, and
temporal attention is causal. So what the history contributes (its keys and values in the temporal
blocks) depends on neither the noise, nor the denoising step, nor the actions: `encode_history`
computes it once and `denoise` runs only the chunk, with the same result as the full forward.
"""

import jax
import jax.numpy as jnp
from flax import nnx, struct

from wmpo_jax.models.dense import Dense
from wmpo_jax.models.stdit.attention import KeysValues, dense
from wmpo_jax.models.stdit.blocks import (
    MLP,
    TIMESTEP_WIDTH,
    BlockPair,
    FinalLayer,
    position_embedding,
    timestep_features,
)
from wmpo_jax.models.stdit.config import STDiTConfig
from wmpo_jax.models.stdit.refine import FineHead
from wmpo_jax.runtime.sharding import spread_batch

HISTORY_TIMESTEP = 15.0
ACTION_MLP_RATIO = 4  # hidden features of the action embedder, whatever the blocks' mlp_ratio


class HistoryCache(struct.PyTreeNode):
    """Rotated keys and values of the history frames, (depth, B, T, S, heads, head_dim) each."""

    keys: jax.Array
    values: jax.Array


class ActionEmbedder(nnx.Module):
    """An action's features; `none_action` stands for the absent action of a history frame."""

    def __init__(self, config: STDiTConfig, *, rngs: nnx.Rngs):
        sizes = (config.action_dim, ACTION_MLP_RATIO * config.hidden, config.hidden)
        self.history = config.history
        self.dtype = config.dtype
        self.mlp = MLP(sizes, nnx.silu, config, rngs=rngs)
        self.none_action = nnx.Param(jax.random.normal(rngs.params(), (config.hidden,)))

    def __call__(self, actions_BKA: jax.Array) -> jax.Array:
        return self.mlp(actions_BKA.astype(self.dtype))

    def with_padding(self, actions_BKA: jax.Array) -> jax.Array:
        """(B, T, D): the history frames have no action, then come the chunk's."""
        actions_BKD = self(actions_BKA)
        none_D = self.none_action[...].astype(self.dtype)
        none_BhD = jnp.broadcast_to(none_D, (len(actions_BKD), self.history, len(none_D)))
        return jnp.concatenate([none_BhD, actions_BKD], axis=1)


class STDiT(nnx.Module):
    """Spatial-temporal diffusion transformer with per-frame action conditioning.

    Latents are channels last, (B, T, rows, columns, C), roughly unit variance. Timesteps are
    0..1000 with 1000 = pure noise. Actions are normalized to [-1, 1]; action k causes frame k of
    the chunk. `height_px`, `width_px` are those of the decoded image and only scale the position
    embedding. Rows and columns that are no multiple of the patch are zero-padded at the bottom and
    right, and cropped again. All outputs are float32.
    """

    def __init__(self, config: STDiTConfig, *, rngs: nnx.Rngs):
        self.config = config
        hidden = config.hidden
        self.patch_embed = _patch_embed(config, rngs)
        self.timestep_mlp = MLP((TIMESTEP_WIDTH, hidden, hidden), nnx.silu, config, rngs=rngs)
        self.modulation = dense(config, hidden, 6 * hidden, rngs=rngs)
        self.action_embedder = ActionEmbedder(config, rngs=rngs)
        self.pairs = _stacked_pairs(config, rngs)
        self.final_layer = FinalLayer(config, rngs=rngs)
        if config.fine:
            self.fine_head = FineHead(config, rngs=rngs)

    def __call__(
        self,
        latents_BTHWC: jax.Array,
        timestep_B: jax.Array,
        actions_BKA: jax.Array,
        mask_BT: jax.Array,
        height_px: int,
        width_px: int,
    ) -> jax.Array:
        """Full forward under any mask (True = noisy frame, False = condition frame).

        Returns (B, T, rows, columns, 2C), or C channels without `pred_sigma`. Its values for
        condition frames is not meaningful.
        """
        spatial_BT6D, temporal_BT6D = self.modulations(timestep_B, actions_BKA, mask_BT)
        x_BTSD = self.embed_latents(latents_BTHWC, height_px, width_px)
        x_BTSD, _ = self._run_pairs(x_BTSD, spatial_BT6D, temporal_BT6D, None)
        t_B1D, clean_11D = (
            self.embed_timestep(timestep_B)[:, None],
            self.history_embedding(),
        )
        noisy = self.final_layer.modulated_norm(x_BTSD, t_B1D)
        # As released: condition frames normalize and modulate the already modulated tokens.
        clean = self.final_layer.modulated_norm(noisy, clean_11D)
        out_BTSD = jnp.where(mask_BT[..., None, None], noisy, clean)
        if self.config.fine:
            h = self.config.history
            chunk = self.fine_head(out_BTSD[:, h:], latents_BTHWC[:, h:], actions_BKA)
            return jnp.concatenate([jnp.zeros_like(latents_BTHWC[:, :h]), chunk], axis=1)
        return self._unpatch(out_BTSD, latents_BTHWC.shape)

    def encode_history(
        self, history_BTHWC: jax.Array, height_px: int, width_px: int
    ) -> HistoryCache:
        """Keys and values of the history frames (exactly `config.history` of them)."""
        modulation_116D = self._modulation(self.history_embedding())
        x_BTSD = self.embed_latents(history_BTHWC, height_px, width_px)
        _, (keys, values) = self._run_pairs(x_BTSD, modulation_116D, modulation_116D, None)
        return HistoryCache(keys, values)

    def denoise(
        self,
        noisy_BKHWC: jax.Array,
        timestep_B: jax.Array,
        actions_BKA: jax.Array,
        cache: HistoryCache,
        height_px: int,
        width_px: int,
    ) -> jax.Array:
        """The chunk frames of the full forward under the history mask, at a lower price.

        Args:
          timestep_B: of each sample, or of length 1 for all of them.
        """
        t_B1D = self.embed_timestep(timestep_B)[:, None]
        actions_BKD = self.action_embedder(actions_BKA)
        x_BKSD = self.embed_latents(noisy_BKHWC, height_px, width_px)
        x_BKSD, _ = self._run_pairs(
            x_BKSD,
            self._modulation(t_B1D + actions_BKD),
            self._modulation(t_B1D),
            (cache.keys, cache.values),
        )
        x_BKSD = self.final_layer.modulated_norm(x_BKSD, t_B1D)
        if self.config.fine:
            return self.fine_head(x_BKSD, noisy_BKHWC, actions_BKA)
        return self._unpatch(x_BKSD, noisy_BKHWC.shape)

    def embed_timestep(self, timestep_B: jax.Array) -> jax.Array:
        """(B, D)."""
        return self.timestep_mlp(timestep_features(timestep_B, self.config.dtype))

    def history_embedding(self) -> jax.Array:
        """What condition frames get in place of timestep and action, (1, 1, D)."""
        return self.embed_timestep(jnp.array([HISTORY_TIMESTEP]))[:, None]

    def modulations(
        self, timestep_B: jax.Array, actions_BKA: jax.Array, mask_BT: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Shifts, scales and gates (B, T, 6, D): of spatial blocks, of temporal blocks.

        Spatial blocks hear of the frame's action, temporal ones only of the timestep.
        """
        t_B1D, clean_11D = (
            self.embed_timestep(timestep_B)[:, None],
            self.history_embedding(),
        )
        frame_BTD = t_B1D + self.action_embedder.with_padding(actions_BKA)
        spatial_BT6D = self._modulation(jnp.where(mask_BT[..., None], frame_BTD, clean_11D))
        noisy_BT11 = mask_BT[..., None, None]
        temporal_BT6D = jnp.where(noisy_BT11, self._modulation(t_B1D), self._modulation(clean_11D))
        return spatial_BT6D, temporal_BT6D

    def _modulation(self, embedding_BTD: jax.Array) -> jax.Array:
        flat = self.modulation(nnx.silu(embedding_BTD))
        return flat.reshape(*flat.shape[:-1], 6, self.config.hidden)

    def embed_latents(self, latents_BTHWC: jax.Array, height_px: int, width_px: int) -> jax.Array:
        """Tokens with positions, (B, T, S, D)."""
        config = self.config
        rows, columns = config.patch
        b, t, h, w, c = latents_BTHWC.shape
        latents = latents_BTHWC.astype(config.dtype)
        latents = jnp.pad(latents, ((0, 0), (0, 0), (0, -h % rows), (0, -w % columns), (0, 0)))
        grid_h, grid_w = -(-h // rows), -(-w // columns)
        patches = latents.reshape(b, t, grid_h, rows, grid_w, columns, c).swapaxes(3, 4)
        tokens = self.patch_embed(patches.reshape(b, t, grid_h * grid_w, rows * columns * c))
        positions_SD = position_embedding(config, grid_h, grid_w, height_px, width_px)
        return tokens + positions_SD[None, None]

    def _run_pairs(
        self,
        x_BTSD: jax.Array,
        spatial_BT6D: jax.Array,
        temporal_BT6D: jax.Array,
        past: KeysValues | None,
    ) -> tuple[jax.Array, KeysValues]:
        """Applies all pairs; keys, values (and `past`) have the pair as leading axis."""
        graphdef, stacked = nnx.split(self.pairs)

        def pair(x_BTSD, layer):
            params, past = layer
            blocks = nnx.merge(graphdef, params)
            x_BTSD, new = blocks(x_BTSD, spatial_BT6D, temporal_BT6D, past)
            return spread_batch(x_BTSD), new

        if self.config.scan_layers:
            return jax.lax.scan(jax.checkpoint(pair), spread_batch(x_BTSD), (stacked, past))
        return jax.lax.scan(pair, x_BTSD, (stacked, past), unroll=True)

    def _unpatch(self, x_BTSD: jax.Array, latent_shape: tuple[int, ...]) -> jax.Array:
        """Linear map to output patches, laid out (rows, columns, channels), then whole frames."""
        config = self.config
        rows, columns = config.patch
        b, t, h, w, _ = latent_shape
        grid_h, grid_w = -(-h // rows), -(-w // columns)
        patches = self.final_layer.linear(x_BTSD)
        patches = patches.reshape(b, t, grid_h, grid_w, rows, columns, config.out_channels)
        frames = patches.swapaxes(3, 4).reshape(b, t, grid_h * rows, grid_w * columns, -1)
        return frames[:, :, :h, :w].astype(jnp.float32)


def _patch_embed(config: STDiTConfig, rngs: nnx.Rngs) -> Dense:
    """A convolution whose stride is its size is a linear map; initialized as torch does."""
    inputs = config.patch[0] * config.patch[1] * config.in_channels

    def uniform(key, shape, dtype):
        return jax.random.uniform(key, shape, dtype, -(inputs**-0.5), inputs**-0.5)

    return dense(config, inputs, config.hidden, kernel_init=uniform, bias_init=uniform, rngs=rngs)


def _stacked_pairs(config: STDiTConfig, rngs: nnx.Rngs) -> BlockPair:
    """One BlockPair whose parameters carry a leading axis of length depth."""

    @nnx.split_rngs(splits=config.depth)
    @nnx.vmap
    def build(rngs: nnx.Rngs) -> BlockPair:
        return BlockPair(config, rngs=rngs)

    return build(rngs)
