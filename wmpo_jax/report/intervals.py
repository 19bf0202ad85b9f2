"""Intervals of success rates, of 95 % by default: for one rate and for a paired difference.

All inputs are outcomes of episodes: bool arrays [n], one entry per evaluation start.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

Z_95 = float(stats.norm.ppf(0.975))


class Interval(NamedTuple):
    """An estimate with its 95 % limits, as fractions (0.1 = 10 points)."""

    estimate: float
    low: float
    high: float


class SeedSummary(NamedTuple):
    """The mean paired difference over training seeds with two intervals that answer two questions.

    Attributes:
      pooled: sampling of the episodes alone; "do these two policies differ?"
      between: the spread of the seeds, Student's t; "would another seed improve too?" None for
        one seed, from which no spread can be estimated.
    """

    pooled: Interval
    between: Interval | None


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a rate (Wilson, JASA 22, 1927); sensible at 0 and at n as well.

    Raises:
      ValueError: n < 1, or successes outside 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} episodes is not a rate")
    low, high = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    p = successes / n
    # At 0 and n the exact limit is p itself; rounding may miss it by 1e-17.
    return Interval(p, min(p, float(low)), max(p, float(high)))


def paired_difference(before: np.ndarray, after: np.ndarray, level: float = 0.95) -> Interval:
    """Newcombe's interval of `after - before` for two policies on the same n starts.

    Method 10 of Newcombe, "Improved confidence intervals for the difference between binomial
    proportions based on paired data", Statistics in Medicine 17 (1998) 2635-2650: the two Wilson
    intervals are combined by squares, less what the two outcomes share. Unlike the normal
    interval it neither collapses when all pairs agree nor leaves [-1, 1].

    Args:
      before, after: bool [n]; entry i of both belongs to the same start.

    Raises:
      ValueError: different shapes or no episode.
    """
    if before.shape != after.shape or before.ndim != 1 or before.size == 0:
        raise ValueError(f"not paired outcomes: shapes {before.shape} and {after.shape}")
    n = before.size
    rate_after = wilson(int(after.sum()), n, level)
    rate_before = wilson(int(before.sum()), n, level)
    phi = _paired_correlation(before.astype(bool), after.astype(bool))
    difference = rate_after.estimate - rate_before.estimate

    def distance(down: float, up: float) -> float:
        return math.sqrt(max(0.0, down**2 - 2 * phi * down * up + up**2))

    low = distance(rate_after.estimate - rate_after.low, rate_before.high - rate_before.estimate)
    high = distance(rate_before.estimate - rate_before.low, rate_after.high - rate_after.estimate)
    return Interval(difference, difference - low, difference + high)


def _paired_correlation(before: np.ndarray, after: np.ndarray) -> float:
    """Newcombe's phi: positive correlations are reduced by n/2 (a continuity correction)."""
    both, neither = int((before & after).sum()), int((~before & ~after).sum())
    lost, won = int((before & ~after).sum()), int((~before & after).sum())
    margins = (both + won) * (lost + neither) * (both + lost) * (won + neither)
    if margins == 0:
        return 0.0
    determinant = both * neither - won * lost
    if determinant > 0:
        determinant = max(0.0, determinant - before.size / 2)
    return determinant / math.sqrt(margins)


def over_seeds(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> SeedSummary:
    """Combines (before, after) outcomes of several training seeds, bool [n_seed] each.

    The estimate is the mean over seeds of each seed's mean paired difference, every seed weighing
    the same. Pooled standard error: sqrt(sum of var_s / n_s) / seeds, with var_s the variance
    (ddof 1) of the per-episode differences of -1, 0, 1. It takes the seeds' evaluation starts for
    independent; for seeds with the same starts it is too narrow.

    Raises:
      ValueError: no seed, unpaired outcomes, or a seed with fewer than two episodes.
    """
    if not pairs or any(b.shape != a.shape or b.ndim != 1 or b.size < 2 for b, a in pairs):
        raise ValueError("every seed needs two outcome arrays of one length, two episodes or more")
    differences = [after.astype(float) - before.astype(float) for before, after in pairs]
    means = np.array([difference.mean() for difference in differences])
    seeds, estimate = len(means), float(means.mean())
    variance = sum(float(d.var(ddof=1)) / d.size for d in differences)
    pooled = _around(estimate, Z_95 * math.sqrt(variance) / seeds)
    if seeds == 1:
        return SeedSummary(pooled, None)
    spread = float(stats.t.ppf(0.975, seeds - 1)) * float(means.std(ddof=1)) / math.sqrt(seeds)
    return SeedSummary(pooled, _around(estimate, spread))


def reliability(probability: np.ndarray, outcome: np.ndarray, bins: int = 10) -> dict[str, list]:
    """The reliability diagram of a probability: bins of equal width over [0, 1].

    Args:
      probability: float [n] in [0, 1].
      outcome: bool [n], what happened.

    Returns:
      Lists of `bins` entries: `confidence`, the mean probability in the bin; `frequency`, the
      share of outcomes that were true; `count`. Empty bins have zeros.
    """
    place = np.minimum((np.asarray(probability) * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    confidence = np.bincount(place, weights=probability, minlength=bins) / np.maximum(count, 1)
    frequency = np.bincount(place, weights=outcome, minlength=bins) / np.maximum(count, 1)
    return {
        "confidence": confidence.tolist(),
        "frequency": frequency.tolist(),
        "count": count.tolist(),
    }


def _around(estimate: float, half: float) -> Interval:
    return Interval(estimate, estimate - half, estimate + half)
