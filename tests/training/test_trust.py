"""The alarm's rule, and the policy that a run results in, on made-up sequences of checks."""

import numpy as np
import pytest

from wmpo_jax.training.trust import Check, alarm, choose

N = 256
PLANNED = 5


def check(iteration: int, real: float, imagined: float, seed: int = 0) -> Check:
    """Outcomes of N paired starts: the hard ones are hard for every policy."""
    difficulty = np.random.default_rng(seed).permutation(N) / N
    outcome = difficulty < imagined
    return Check(iteration, difficulty < real, outcome, outcome, 26.0)


def checks(*pairs: tuple[float, float]) -> list[Check]:
    return [check(4 * place, *pair) for place, pair in enumerate(pairs)]


@pytest.mark.parametrize(
    "pairs",
    [
        [(0.3, 0.3), (0.04, 0.9)],  # what the grasping task did: exploited from the start
        [(0.3, 0.3), (0.5, 0.5), (0.35, 0.9)],  # gained, then lost part of it
        [(0.3, 0.5), (0.3, 0.7), (0.15, 0.7)],  # imagination stands still at the top
    ],
)
def test_falling_in_reality_alone_is_an_alarm(pairs) -> None:
    reason = alarm(checks(*pairs), PLANNED)
    assert f"fell from {max(real for real, _ in pairs):.3f}"[:14] in reason
    assert "exploits errors of the world model" in reason


@pytest.mark.parametrize(
    "pairs",
    [
        [(0.3, 0.3)],  # nothing to compare with
        [(0.3, 0.3), (0.6, 0.7), (0.8, 0.8)],  # both rise
        [(0.3, 0.3), (0.3, 0.9)],  # no gain in reality, and no loss
        [(0.3, 0.3), (0.04, 0.05)],  # fails everywhere: the optimizer, not the world model
    ],
)
def test_no_alarm(pairs) -> None:
    assert alarm(checks(*pairs), PLANNED) == ""


def test_noise_of_equal_policies_is_no_alarm_in_nineteen_runs_of_twenty() -> None:
    random, alarms = np.random.default_rng(1), 0
    for _ in range(200):
        drawn = []
        for place in range(PLANNED):
            real_B, imagined_B = random.random((2, N)) < 0.5
            drawn.append(Check(place, real_B, imagined_B, imagined_B, 26.0))
        alarms += any(alarm(drawn[: count + 1], PLANNED) for count in range(PLANNED))
    assert alarms <= 20


def test_the_last_policy_counts_as_planned() -> None:
    assert choose(checks((0.3, 0.3), (0.62, 0.6), (0.6, 0.6)), PLANNED) == (8, "")


@pytest.mark.parametrize(
    ("pairs", "iteration", "reason"),
    [
        ([(0.3, 0.3), (0.6, 0.6), (0.1, 0.9)], 4, "The policy of iteration 4 is the result"),
        ([(0.3, 0.3), (0.31, 0.6), (0.1, 0.9)], 0, "began with is the result"),
        ([(0.3, 0.3), (0.29, 0.9)], 0, "0.293 at the end"),  # slightly worse is worse
        ([(0.3, 0.3), (0.6, 0.6), (0.1, 0.1)], 4, "0.602 at best"),  # without an alarm too
    ],
)
def test_what_did_worse_than_the_first_is_never_the_result(pairs, iteration, reason) -> None:
    choice = choose(checks(*pairs), PLANNED)
    assert choice.iteration == iteration and reason in choice.reason
