"""Can imagination be trusted? The same starts in both environments, before and after RL.

Once with the same actions, which compares outcomes episode by episode; and once with the policy
acting on what it sees in each of them, as it does in reinforcement. The second may fail where the
first is good: a policy that imagined frames confuse visits other states than real ones.
"""

from typing import Any

import jax
import numpy as np

from wmpo_jax.algorithm.trajectory import Trajectory
from wmpo_jax.assembly.seeds import span
from wmpo_jax.runtime.files import save_arrays
from wmpo_jax.runtime.progress import say
from wmpo_jax.stages.comparison import Comparison
from wmpo_jax.stages.context import RunContext
from wmpo_jax.stages.reward import confusion


def run(context: RunContext) -> dict[str, Any]:
    """Compares both environments under the base policy and prints the gates, before any RL."""
    report = compare(context, context.trained.policy_params("sft"), "before")
    report["gates"] = gates = _gates(context, report)
    for name, gate in gates.items():
        mark = "passed" if gate["passed"] else "FAILED"
        say(f"gate {name}: {gate['value']:.3f} (bound {gate['bound']:.2f}) {mark}")
    failed = [name for name, gate in gates.items() if not gate["passed"]]
    if failed and context.config.gates.enforce:
        report["stops"] = (
            f"Gates failed before reinforcement ({', '.join(failed)}): imagination is not to be "
            "trusted yet, so the base policy is the result. Train the world model longer or on "
            "more play, or set gates.enforce to False to go on all the same."
        )
        say(report["stops"])
    return report


def run_after(context: RunContext) -> dict[str, Any]:
    """The same comparison under the improved policy: did it learn to exploit the model?"""
    last = context.last_round
    return compare(last, last.trained.policy_params("improve"), "after")


def compare(context: RunContext, params: Any, when: str) -> dict[str, Any]:
    """Plays `params` in the real environment, sampled as in training, and replays in imagination.

    Returns outcome agreement and PSNR over the horizon; PSNR is that of the mean squared error
    over episodes, against the baseline that repeats the first frame. The simulator's outcomes are
    used here for the report only.
    """
    comparison = Comparison(context, "gates", context.config.gates.episodes)
    played = list(comparison.batches(params))
    real, frames, predicted, free = jax.tree.map(lambda *xs: np.concatenate(xs), *played)
    seeds = comparison.seeds
    _save_videos(context, real, frames, predicted, when)
    context.workdir.ledger.append(
        "gates" if when == "before" else "gates_after",
        f"comparison {when} RL",
        episodes=len(seeds),
        seeds=span(seeds),
        used_for_training=False,
    )
    return {
        **confusion(predicted, real.success_B),
        "free_imagined_rate": float(free.mean()),
        **_psnr_report(real.frames_BTHWC, frames),
        **context.provenance(),
    }


def _gates(context: RunContext, report: dict[str, Any]) -> dict[str, Any]:
    section = context.config.gates
    gap = abs(report["imagined_rate"] - report["real_rate"])
    closed = abs(report["free_imagined_rate"] - report["real_rate"])
    return {
        "success rate gap": _gate(gap, section.max_rate_gap, gap <= section.max_rate_gap),
        "closed-loop rate gap": _gate(closed, section.max_rate_gap, closed <= section.max_rate_gap),
        "agreement": _gate(
            report["agreement"], section.min_agreement, report["agreement"] >= section.min_agreement
        ),
        "precision": _gate(
            report["precision"], section.min_precision, report["precision"] >= section.min_precision
        ),
    }


def _gate(value: float, bound: float, passed: bool) -> dict[str, Any]:
    return {"value": value, "bound": bound, "passed": bool(passed)}


def _psnr_report(real_BTHWC: np.ndarray, imagined_BTHWC: np.ndarray) -> dict[str, Any]:
    """PSNR in dB after each action, and that of repeating the first frame."""
    curve = _psnr_curve(real_BTHWC[:, 1:], imagined_BTHWC[:, 1:])
    copy = _psnr_curve(real_BTHWC[:, 1:], real_BTHWC[:, :1])
    moments = {"1": 0, "half": len(curve) // 2 - 1, "full": len(curve) - 1}
    return {
        "psnr": {name: curve[t] for name, t in moments.items()},
        "psnr_copy_first": {name: copy[t] for name, t in moments.items()},
        "psnr_curve": curve,
        "psnr_copy_curve": copy,
    }


def _psnr_curve(a_BTHWC: np.ndarray, b_BTHWC: np.ndarray) -> list[float]:
    error = (a_BTHWC.astype(np.float32) - b_BTHWC.astype(np.float32)) / 255.0
    return [float(v) for v in -10.0 * np.log10((error**2).mean(axis=(0, 2, 3, 4)) + 1e-12)]


def _save_videos(
    context: RunContext, real: Trajectory, frames: np.ndarray, predicted: np.ndarray, when: str
) -> None:
    """Agreements and, where there are any, disagreements; for the report."""
    true = np.asarray(real.success_B)
    kinds = {
        "both succeed": predicted & true,
        "both fail": ~predicted & ~true,
        "false positive": predicted & ~true,
        "false negative": ~predicted & true,
    }
    rows, captions = [], []
    for name, members in kinds.items():
        for row in np.flatnonzero(members)[:2]:
            rows.append(row)
            captions.append(f"{name}: real | imagined")
    save_arrays(
        context.workdir.data("videos") / f"real_imagined_{when}.npz",
        {
            "left_BTHWC": np.asarray(real.frames_BTHWC)[rows],
            "right_BTHWC": frames[rows],
            "caption": captions,
        },
    )
