"""OpenVLA-OFT with discrete tokens: one forward pass gives the scores of a whole chunk of actions.

Sequence, in the order of the rotary positions (reference at 09f60b7:
verl/utils/vla_utils/openvla_oft/modeling_prismatic.py:461-486):

    [BOS] [P patches] [rest of the prompt] [K*A slots] [stop] [padding]

In released policies the slots are ZERO vectors that differ only in their positions. The scores of
a slot are read one position earlier, so those of the first action stand on the last token of the
prompt.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from wmpo_jax.models.dense import Dense
from wmpo_jax.models.vla.config import VLAConfig
from wmpo_jax.models.vla.llama import Llama, Read
from wmpo_jax.models.vla.vision import ViT
from wmpo_jax.runtime.precision import linear


class Projector(nnx.Module):
    """Linear-GELU-Linear-GELU-Linear from both towers' features to the language model's width."""

    def __init__(self, config: VLAConfig, *, rngs: nnx.Rngs):
        llama = config.llama
        linear = partial(Dense, dtype=llama.dtype, products=llama.products, rngs=rngs)
        features, width = config.dino.width + config.siglip.width, llama.width
        self.fc1 = linear(features, config.projector_width)
        self.fc2 = linear(config.projector_width, width)
        self.fc3 = linear(width, width)

    def __call__(self, features_BPD: jax.Array) -> jax.Array:
        hidden = nnx.gelu(self.fc1(features_BPD), approximate=False)
        hidden = nnx.gelu(self.fc2(hidden), approximate=False)
        return self.fc3(hidden)


class VLA(nnx.Module):
    """The policy network. Pixels come from `data.transforms`, prompts from `PromptTokenizer`."""

    def __init__(self, config: VLAConfig, *, rngs: nnx.Rngs):
        self.dino = ViT(config.dino, rngs=rngs)
        self.siglip = ViT(config.siglip, rngs=rngs)
        self.projector = Projector(config, rngs=rngs)
        self.llama = Llama(config.llama, rngs=rngs)
        if config.learned_slots:
            shape = (config.chunk * config.action_dim, config.llama.width)
            self.slots = nnx.Param(jax.random.normal(rngs.params(), shape))
        self.config = config

    def __call__(
        self,
        pixels_BHWC: jax.Array,
        prompt_BL: jax.Array,
        prompt_length_B: jax.Array | None = None,
    ) -> jax.Array:
        """Scores of the action classes.

        Args:
          pixels_BHWC: float [B, size, size, 6], normalized twice: DINOv2's channels, then SigLIP's.
          prompt_BL: int32 token ids that begin with BOS, padded on the right.
          prompt_length_B: int32 tokens per prompt; None promises that none is padded.

        Returns:
          logits_BKAV: float32 scores of the V action classes; larger class = smaller action.
        """
        return self.logits_from_patches(self.encode_images(pixels_BHWC), prompt_BL, prompt_length_B)

    def encode_images(self, pixels_BHWC: jax.Array) -> jax.Array:
        """pixels_BHWC [B, size, size, 6] -> patches_BPD in the language model's width."""
        return self.projector(self.vision_features(pixels_BHWC))

    def vision_features(self, pixels_BHWC: jax.Array) -> jax.Array:
        """Features of both towers side by side, DINOv2 first."""
        dino_BPD = self.dino(pixels_BHWC[..., :3])
        siglip_BPD = self.siglip(pixels_BHWC[..., 3:])
        return jnp.concatenate([dino_BPD, siglip_BPD], axis=-1)

    def logits_from_patches(
        self,
        patches_BPD: jax.Array,
        prompt_BL: jax.Array,
        prompt_length_B: jax.Array | None = None,
    ) -> jax.Array:
        """As `__call__`, for images that are encoded already."""
        config = self.config
        x_BSD = self.embed_sequence(patches_BPD, prompt_BL)
        positions_BS, key_mask_BS = self.positions(prompt_BL.shape[1], prompt_length_B)
        read = self._read_slots(prompt_BL.shape[1], prompt_length_B)
        hidden_BQD = self.llama(x_BSD, positions_BS, key_mask_BS, read)
        begin = config.action_token_begin
        head_VD = self.llama.lm_head[begin : begin + config.n_action_classes]
        scores = linear(hidden_BQD, head_VD.T, config.llama.products)
        shape = (-1, config.chunk, config.action_dim, config.n_action_classes)
        return scores.astype(jnp.float32).reshape(shape)

    def embed_sequence(self, patches_BPD: jax.Array, prompt_BL: jax.Array) -> jax.Array:
        """The sequence in memory: padding stays inside the prompt.

        `positions` numbers the tokens as if the padding stood behind the stop token. Attention only
        gets positions and mask, so nothing has to move.
        """
        batch = patches_BPD.shape[0]
        prompt_BLD = self.llama.embed(prompt_BL)
        stop_BL = jnp.full((batch, 1), self.config.stop_token, prompt_BL.dtype)
        slots_XD = self.slots[...] if self.config.learned_slots else self._zero_slots()
        parts = [
            prompt_BLD[:, :1],
            patches_BPD.astype(prompt_BLD.dtype),
            prompt_BLD[:, 1:],
            jnp.broadcast_to(slots_XD, (batch, *slots_XD.shape)).astype(prompt_BLD.dtype),
            self.llama.embed(stop_BL),
        ]
        return jnp.concatenate(parts, axis=1)

    def _zero_slots(self) -> jax.Array:
        return jnp.zeros((self.config.chunk * self.config.action_dim, self.config.llama.width))

    def positions(
        self, prompt_width: int, prompt_length_B: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Rotary positions of `embed_sequence` and which of its tokens are not padding.

        Returns positions_BS (leading axis 1 and no mask when no prompt is padded) and key_mask_BS.
        """
        before_slots = self.config.dino.n_patches + prompt_width
        index_S = jnp.arange(before_slots + self.config.chunk * self.config.action_dim + 1)
        if prompt_length_B is None:
            return index_S[None], None
        padding_B1 = (prompt_width - prompt_length_B)[:, None]
        index_1S = index_S[None]
        behind_prompt = index_1S >= before_slots
        return (
            jnp.where(behind_prompt, index_1S - padding_B1, index_1S),
            behind_prompt | (index_1S < before_slots - padding_B1),
        )

    def _read_slots(self, prompt_width: int, prompt_length_B: jax.Array | None) -> Read:
        """Picks the K*A tokens that carry scores: last of the prompt, then all slots but one."""
        n_patches = self.config.dino.n_patches
        first_slot = n_patches + prompt_width
        end = first_slot + self.config.chunk * self.config.action_dim - 1
        if prompt_length_B is None:
            return lambda x_BSX: x_BSX[:, first_slot - 1 : end]
        last_B11 = (n_patches + prompt_length_B - 1)[:, None, None]

        def read(x_BSX: jax.Array) -> jax.Array:
            last_B1X = jnp.take_along_axis(x_BSX, last_B11, axis=1)
            return jnp.concatenate([last_B1X, x_BSX[:, first_slot:end]], axis=1)

        return read
