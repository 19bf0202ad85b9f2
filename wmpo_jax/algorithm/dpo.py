"""Direct preference optimization on pairs of episodes (Rafailov et al., NeurIPS 2023): a baseline.

The reference policy is the one that sampled the episodes, so its log-probabilities are those that
the episodes were recorded with.
"""

import jax
import jax.numpy as jnp
import numpy as np


def pairs(success_B: np.ndarray, group_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of (winner, loser) of every pair, int [P] each: a success and a failure from one start.

    Args:
      success_B: bool, ordered group by group (B = groups x group_size).
    """
    winners, losers = [], []
    for start in range(0, len(success_B), group_size):
        members = np.arange(start, start + group_size)
        won, lost = members[success_B[members]], members[~success_B[members]]
        winners.append(np.repeat(won, len(lost)))
        losers.append(np.tile(lost, len(won)))
    return np.concatenate(winners).astype(int), np.concatenate(losers).astype(int)


def episode_log_prob(log_prob_BX: jax.Array, mask_BX: jax.Array) -> jax.Array:
    """float32_B: of the tokens of an episode that were executed before it was finished."""
    return jnp.where(mask_BX, log_prob_BX, 0.0).sum(axis=1)


def preference_loss(
    winner_P: jax.Array,
    loser_P: jax.Array,
    reference_winner_P: jax.Array,
    reference_loser_P: jax.Array,
    beta: float,
) -> tuple[jax.Array, jax.Array]:
    """-log sigmoid(beta [(log p_w - log r_w) - (log p_l - log r_l)]): its mean, and the share of
    pairs whose winner gained more than its loser.

    Args:
      winner_P, loser_P: float32 log-probabilities of whole episodes under the policy p.
      reference_winner_P, reference_loser_P: the same under the reference r.
      beta: how strongly the policy is held to the reference.
    """
    margin_P = (winner_P - reference_winner_P) - (loser_P - reference_loser_P)
    return -jax.nn.log_sigmoid(beta * margin_P).mean(), (margin_P > 0).mean()
