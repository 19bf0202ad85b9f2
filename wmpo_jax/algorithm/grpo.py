"""Group-relative policy optimization as WMPO uses it (section 3.3): pure functions of arrays.

G groups of M episodes share a start; episodes are ordered group by group (B = G*M).
X counts the action tokens of an episode (X = N*K*A), in the order of execution.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct

REWARD = 5.0  # of a success; its scale cancels in the advantage (up to EPSILON)
EPSILON = 1e-6


def mixed_groups(
    success_B: jax.Array, group_size: int, lowest: float = 0.1, highest: float = 0.9
) -> jax.Array:
    """bool_G: groups with lowest <= mean success <= highest, the reference's filter.

    Up to M = 10 these are the groups with at least one success and one failure, which alone carry
    a gradient.
    """
    count_G = success_B.reshape(-1, group_size).sum(axis=1)
    fewest = math.ceil(lowest * group_size - EPSILON)
    most = math.floor(highest * group_size + EPSILON)
    return (count_G >= fewest) & (count_G <= most)


def group_advantages(success_B: jax.Array, group_size: int) -> jax.Array:
    """float32_B: A_i = (R_i - mean_g R) / (std_g R + 1e-6), R = 5 on success, std with M-1.

    A group of one has no spread to compare with: mean 0 and std 1 are used, as in the reference.
    """
    reward_GM = REWARD * success_B.astype(jnp.float32).reshape(-1, group_size)
    if group_size == 1:
        return reward_GM.reshape(-1) / (1.0 + EPSILON)
    mean_G1 = reward_GM.mean(axis=1, keepdims=True)
    std_G1 = reward_GM.std(axis=1, ddof=1, keepdims=True)
    return ((reward_GM - mean_G1) / (std_G1 + EPSILON)).reshape(-1)


def token_mask(finish_step_B: jax.Array, num_tokens: int, action_dim: int) -> jax.Array:
    """bool_BX: tokens of the actions that were executed before the episode was finished."""
    return jnp.arange(num_tokens)[None] < (finish_step_B * action_dim)[:, None]


def token_log_probs(
    logits_XV: jax.Array, tokens_X: jax.Array, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """(log-probability, entropy in nats) of each token under softmax(logits / temperature)."""
    log_probs_XV = jax.nn.log_softmax(logits_XV / temperature, axis=-1)
    log_prob_X = jnp.take_along_axis(log_probs_XV, tokens_X[..., None], axis=-1)[..., 0]
    return log_prob_X, -(jnp.exp(log_probs_XV) * log_probs_XV).sum(axis=-1)


def clipped_objective(
    log_prob: jax.Array,
    old_log_prob: jax.Array,
    advantage: jax.Array,
    clip_low: float,
    clip_high: float,
) -> tuple[jax.Array, jax.Array]:
    """Per token: (max(-A r, -A clip(r, 1-low, 1+high)), whether the clipped term was larger)."""
    ratio = jnp.exp(log_prob - old_log_prob)
    plain = -advantage * ratio
    clipped = -advantage * jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
    return jnp.maximum(plain, clipped), clipped > plain


def token_weights(mask_BX: jax.Array, weight_B: jax.Array) -> jax.Array:
    """float32_BX: the share of each token in a mean over episodes of means over their tokens.

    Every episode's tokens share weight_B / sum(weight_B): all episodes weigh the same, however
    long. Such a sum can be taken in any slices, which is how an update is split into
    micro-batches without changing its gradient.
    """
    per_episode_B = weight_B / jnp.maximum(weight_B.sum(), 1.0)
    tokens_B = jnp.maximum(mask_BX.sum(axis=1), 1)
    return jnp.where(mask_BX, (per_episode_B / tokens_B)[:, None], 0.0)


class PolicyLossMetrics(struct.PyTreeNode):
    """Weighted means over tokens: the share that was clipped, and old - new log-probability."""

    clip_fraction: jax.Array
    kl: jax.Array


def policy_loss(
    log_prob: jax.Array,
    old_log_prob: jax.Array,
    advantage: jax.Array,
    weight: jax.Array,
    clip_low: float,
    clip_high: float,
) -> tuple[jax.Array, PolicyLossMetrics]:
    """Sum over tokens of weight x clipped objective (WMPO equation 4).

    No KL term, no entropy bonus (reference: verl/workers/actor/dp_rob.py).

    Args:
      log_prob, old_log_prob: float32 of one shape, any number of axes.
      advantage: broadcast against them.
      weight: of each token, see `token_weights`.
    """
    losses, clipped = clipped_objective(log_prob, old_log_prob, advantage, clip_low, clip_high)
    metrics = PolicyLossMetrics(
        clip_fraction=(weight * clipped).sum(), kl=(weight * (old_log_prob - log_prob)).sum()
    )
    return (weight * losses).sum(), metrics
