"""When reinforcement in imagination is to be stopped, and which of its policies is the result.

Policies are checked in the real environment from time to time, all on the same starts. The rules
here are functions of those checks alone.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wmpo_jax.report.intervals import paired_difference

FALSE_ALARMS = 0.05  # the probability of one in a whole run whose policy stays as good as it was


class Check(NamedTuple):
    """One policy in the real environment and in imagination, from the same starts.

    Attributes:
      iteration: of GRPO; 0 is the policy that it began with.
      real_B: bool [n], real success.
      replayed_B: bool [n], what imagination says of the same actions.
      imagined_B: bool [n], success of the policy acting on imagined frames.
      psnr: dB, of imagined frames of the same actions over the whole episode.
    """

    iteration: int
    real_B: np.ndarray
    replayed_B: np.ndarray
    imagined_B: np.ndarray
    psnr: float

    @property
    def metrics(self) -> dict[str, float]:
        """Rates in [0, 1] and dB, ready for a MetricWriter."""
        false_B = self.replayed_B & ~self.real_B
        return {
            "real_success": float(self.real_B.mean()),
            "imagined_success": float(self.imagined_B.mean()),
            "agreement": float((self.real_B == self.replayed_B).mean()),
            "false_success": float(false_B.sum() / max((~self.real_B).sum(), 1)),
            "real_psnr": self.psnr,
        }


class Choice(NamedTuple):
    """The policy that a run of reinforcement results in.

    Attributes:
      iteration: after which the policy was as it is chosen; 0 for the one that it began with.
      reason: a sentence; "" where it is simply the last one.
    """

    iteration: int
    reason: str


def best(checks: Sequence[Check]) -> Check:
    """The check with the highest real success; the earliest of equals."""
    return max(checks, key=lambda check: (check.real_B.mean(), -check.iteration))


def alarm(checks: Sequence[Check], planned: int) -> str:
    """Why reinforcement has to stop at the last of `checks`; "" while it may go on.

    Real success has fallen clearly below that of the best earlier check while imagined success has
    not fallen clearly: what the policy still learns is to exploit the world model. Clearly means
    that a paired interval excludes zero, at a level that leaves FALSE_ALARMS to all of the
    `planned` checks together. A policy that fails in imagination as well is no such case; `choose`
    deals with it at the end.
    """
    if len(checks) < 2:
        return ""
    last, before = checks[-1], best(checks[:-1])
    level = 1 - FALSE_ALARMS / max(planned, 1)
    real = paired_difference(before.real_B, last.real_B, level)
    imagined = paired_difference(before.imagined_B, last.imagined_B, level)
    if real.high >= 0 or imagined.high < 0:
        return ""
    return (
        f"Between iterations {before.iteration} and {last.iteration} real success fell from "
        f"{before.real_B.mean():.3f} to {last.real_B.mean():.3f} (n = {len(last.real_B)}) while "
        f"imagined success went from {before.imagined_B.mean():.3f} to "
        f"{last.imagined_B.mean():.3f}: the policy exploits errors of the world model."
    )


def choose(checks: Sequence[Check], planned: int) -> Choice:
    """The result: never a policy that did worse in the real environment than the first one.

    Without an alarm the last policy counts, as was planned before the run, unless it is clearly
    below the best one or at all below the first. After an alarm the best one counts if it is
    clearly above the first, and the first one otherwise: the highest of several noisy rates alone
    is no reason.
    """
    first, last, top = checks[0], checks[-1], best(checks)
    level = 1 - FALSE_ALARMS / max(planned, 1)
    stopped = alarm(checks, planned)
    fell = paired_difference(top.real_B, last.real_B, level).high < 0
    if not stopped and not fell and last.real_B.mean() >= first.real_B.mean():
        return Choice(last.iteration, "")
    why = stopped or (
        f"Real success was {last.real_B.mean():.3f} at the end, {first.real_B.mean():.3f} at the "
        f"beginning and {top.real_B.mean():.3f} at best (n = {len(last.real_B)})."
    )
    if paired_difference(first.real_B, top.real_B, level).low > 0:
        return Choice(
            top.iteration, f"{why} The policy of iteration {top.iteration} is the result."
        )
    return Choice(0, f"{why} The policy that reinforcement began with is the result.")
