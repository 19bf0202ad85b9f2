"""The reward model: VideoMAE over windows of frames; how its head is read; its loss."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct

from wmpo_jax.algorithm.imagination import success_hits
from wmpo_jax.algorithm.trajectory import first_success
from wmpo_jax.models.videomae import VideoMAE, VideoMAEConfig, score_windows


@dataclass(frozen=True)
class SuccessRule:
    """When scores count as success (`algorithm.imagination.success_hits`)."""

    threshold: float
    min_step: int


class VideoRewardModel(struct.PyTreeNode):
    """`algorithm.imagination.RewardModel`."""

    params: Any
    graphdef: Any = struct.field(pytree_node=False)
    config: VideoMAEConfig = struct.field(pytree_node=False)

    @property
    def window(self) -> int:
        """Frames that it sees at once."""
        return self.config.num_frames

    def score(self, frames_BTHWC: jax.Array, instruction_id_B: jax.Array) -> jax.Array:
        """Success probability of every window of uint8 frames, float32 [B, T - window + 1]."""
        logits_BKX = score_windows(nnx.merge(self.graphdef, self.params), frames_BTHWC)
        return success_probability(self.config, logits_BKX, instruction_id_B)

    def outcomes(
        self, video_BTHWC: jax.Array, instruction_id_B: jax.Array, rule: SuccessRule
    ) -> tuple[jax.Array, jax.Array]:
        """Success of whole episodes: complete_B bool and finish_step_B int32, actions executed."""
        # Earlier windows never count, or end before the first action.
        first = max(rule.min_step, 1 - (self.window - 1))
        before = jnp.repeat(video_BTHWC[:, :1], max(-first, 0), axis=1)
        frames = jnp.concatenate([before, video_BTHWC[:, max(first, 0) :]], axis=1)
        score_BK = self.score(frames, instruction_id_B)
        return episode_outcomes(score_BK, first + self.window - 1, self.window, rule)


def episode_outcomes(
    score_BK: jax.Array, first_end: int, window: int, rule: SuccessRule
) -> tuple[jax.Array, jax.Array]:
    """(success_B, finish_step_B) from the scores of consecutive windows.

    Args:
      first_end: actions executed when the first window of `score_BK` ends.
    """
    executed_K = first_end + jnp.arange(score_BK.shape[1])
    hit_BK = success_hits(
        score_BK, executed_K, threshold=rule.threshold, min_step=rule.min_step, window=window
    )
    success_B, finish_step_B = first_success(hit_BK)
    return success_B, finish_step_B + first_end - 1


def build_reward_model(config: VideoMAEConfig, seed: int = 0) -> VideoMAE:
    """The network with fresh weights."""
    return VideoMAE(config, rngs=nnx.Rngs(seed))


def make_reward_model(config: VideoMAEConfig, params: Any) -> VideoRewardModel:
    """The one constructor; `params` may be shapes."""
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: build_reward_model(config)))
    return VideoRewardModel(params, graphdef, config)


def success_probability(
    config: VideoMAEConfig, logits_BKX: jax.Array, instruction_id_B: jax.Array
) -> jax.Array:
    """float32_BK, as `config.head` says: a sigmoid of logit 1, or a softmax over a pair."""
    if config.head == "sigmoid":
        return jax.nn.sigmoid(logits_BKX[..., 1])
    pair_BK2 = jax.vmap(instruction_logits, in_axes=(1, None), out_axes=1)(
        logits_BKX, instruction_id_B
    )
    return jax.nn.softmax(pair_BK2)[..., 1]


def instruction_logits(logits_BX: jax.Array, instruction_id_B: jax.Array) -> jax.Array:
    """The (failure, success) pair of an instruction, [B, 2], out of one pair for each, [B, 2G]."""
    pairs_BG2 = logits_BX.reshape(logits_BX.shape[0], -1, 2)
    return jnp.take_along_axis(pairs_BG2, instruction_id_B[:, None, None], axis=1)[:, 0]


def classification_loss(
    network: VideoMAE,
    frames_BTHWC: jax.Array,
    instruction_id_B: jax.Array,
    success_B: jax.Array,
) -> tuple[jax.Array, Mapping[str, jax.Array]]:
    """Cross-entropy on windows of uint8 frames; `success_B`: success holds in the last frame.

    A head that is read by a sigmoid is trained as the reference trains it, on its two logits
    (reward_model/videomae.py).
    """
    logits_BX = network(network.preprocess(frames_BTHWC))
    log_probs_B2 = jax.nn.log_softmax(instruction_logits(logits_BX, instruction_id_B))
    labels_B1 = success_B[:, None].astype(jnp.int32)
    loss = -jnp.take_along_axis(log_probs_B2, labels_B1, axis=1).mean()
    hit_B = (log_probs_B2[:, 1] > log_probs_B2[:, 0]) == success_B
    return loss, {"accuracy": hit_B.mean()}
