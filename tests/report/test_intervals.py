"""Intervals against numbers printed in the literature."""

import numpy as np
import pytest

from wmpo_jax.report.intervals import over_seeds, paired_difference, reliability, wilson


def outcomes(both: int, won: int, lost: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """(before, after) with these many pairs; `won` = solved only afterwards."""
    before = np.repeat([True, False, True, False], [both, won, lost, neither])
    after = np.repeat([True, True, False, False], [both, won, lost, neither])
    return before, after


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, Stat. Med. 17, 857-872, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_matches_newcombe_table(successes, n, low, high):
    assert wilson(successes, n)[1:] == pytest.approx((low, high), abs=6e-5)


def test_wilson_is_symmetric_and_refuses_nonsense():
    assert wilson(20, 20).low == pytest.approx(1 - wilson(0, 20).high)
    for successes, n in [(1, 0), (3, 2), (-1, 4)]:
        with pytest.raises(ValueError):
            wilson(successes, n)


@pytest.mark.parametrize(
    ("cells", "expected", "tolerance"),
    [
        # Altman et al., Statistics with Confidence, table 6.2; interval as printed by epiR's manual
        ((14, 5, 0, 22), (0.122, 0.011, 0.226), 6e-4),
        # Cavo et al. 2012; interval as in the tests of Fagerland's R package contingencytables
        ((59, 6, 16, 80), (-0.0621, -0.1186, -0.0046), 6e-5),
    ],
)
def test_paired_difference_matches_published_examples(cells, expected, tolerance):
    assert paired_difference(*outcomes(*cells)) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("cells", [(5, 9, 3, 4), (1, 8, 9, 2)])  # outcomes apart, and opposed
def test_swapping_the_policies_turns_the_interval_round(cells):
    before, after = outcomes(*cells)
    estimate, low, high = paired_difference(before, after)
    assert paired_difference(after, before) == pytest.approx((-estimate, -high, -low))


def test_pairs_that_all_agree_still_leave_doubt():
    same = np.array([True] * 10 + [False] * 10)
    estimate, low, high = paired_difference(same, same)
    assert estimate == 0 and low < 0 < high


def test_paired_difference_refuses_unmatched_episodes():
    with pytest.raises(ValueError, match="not paired"):
        paired_difference(np.zeros(3, bool), np.zeros(4, bool))


def test_seeds_combine_by_hand():
    """Differences .2, .4, .6 of n=100 each; winners only, so var_s = p(1-p) n/(n-1)."""
    pairs = [outcomes(0, won, 0, 100 - won) for won in (20, 40, 60)]
    pooled, between = over_seeds(pairs)
    se = np.sqrt((0.16 + 0.24 + 0.24) / 99) / 3
    assert pooled == pytest.approx((0.4, 0.4 - 1.959964 * se, 0.4 + 1.959964 * se))
    half = 4.302653 * 0.2 / 3**0.5  # the t quantile of two degrees of freedom
    assert between == pytest.approx((0.4, 0.4 - half, 0.4 + half))


def test_one_seed_has_no_spread_between_seeds():
    assert over_seeds([outcomes(1, 5, 0, 4)]).between is None
    with pytest.raises(ValueError, match="every seed"):
        over_seeds([])


def test_reliability_counts_each_bin():
    bins = reliability(np.array([0.1, 0.3, 0.3, 1.0]), np.array([False, True, False, True]), bins=4)
    assert bins["count"] == [1, 2, 0, 1]
    assert bins["confidence"] == pytest.approx([0.1, 0.3, 0.0, 1.0])
    assert bins["frequency"] == [0.0, 0.5, 0.0, 1.0]
