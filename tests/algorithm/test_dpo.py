"""Preference pairs and their loss against values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from wmpo_jax.algorithm import dpo


def test_every_success_meets_every_failure_of_its_own_start():
    success_B = np.array([True, False, False, True, True, True])
    winners, losers = dpo.pairs(success_B, group_size=3)
    assert list(zip(winners, losers, strict=True)) == [(0, 1), (0, 2)]
    winners, losers = dpo.pairs(success_B, group_size=6)
    assert len(winners) == 8 and success_B[winners].all() and not success_B[losers].any()


def test_tokens_after_the_end_do_not_count():
    log_prob_BX = jnp.array([[-1.0, -2.0, -50.0]])
    assert dpo.episode_log_prob(log_prob_BX, jnp.array([[True, True, False]])) == -3.0


def test_loss_at_the_reference_and_away_from_it():
    same = jnp.array([-3.0])
    loss, share = dpo.preference_loss(same, same - 1, same, same - 1, beta=0.1)
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)
    assert share == 0
    loss, share = dpo.preference_loss(same + 2, same - 2, same, same, beta=0.5)
    np.testing.assert_allclose(loss, np.log1p(np.exp(-2.0)), rtol=1e-6)
    assert share == 1


def test_gradient_raises_the_winner_and_lowers_the_loser():
    zero = jnp.zeros(1)
    gradient = jax.grad(
        lambda won, lost: dpo.preference_loss(won, lost, zero, zero, 1.0)[0], (0, 1)
    )
    winner, loser = gradient(zero, zero)
    np.testing.assert_allclose([winner[0], loser[0]], [-0.5, 0.5])
