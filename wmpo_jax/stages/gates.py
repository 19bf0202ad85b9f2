"""Can imagination be trusted? The same starts in both environments, before and after RL.

Once with the same actions, which compares outcomes episode by episode; and once with the policy
acting on what it sees in each of them, as it does in reinforcement. The second may fail where the
first is good: a policy that imagined frames confuse visits other states than real ones.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wmpo_jax.algorithm.protocols import Observation
from wmpo_jax.algorithm.rollout import replay, rollout
from wmpo_jax.algorithm.trajectory import Trajectory
from wmpo_jax.assembly.seeds import span
from wmpo_jax.assembly.trained import ImaginedParts
from wmpo_jax.runtime import sharding
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import save_arrays
from wmpo_jax.runtime.mesh import fetch, replicate
from wmpo_jax.runtime.progress import say
from wmpo_jax.stages.context import RunContext
from wmpo_jax.stages.reward import confusion

BATCH = 128


def run(context: RunContext) -> dict[str, Any]:
    """Compares both environments under the base policy and prints the gates, before any RL."""
    report = compare(context, context.trained.policy_params("sft"), "before")
    report["gates"] = gates = _gates(context, report)
    for name, gate in gates.items():
        mark = "passed" if gate["passed"] else "FAILED"
        say(f"gate {name}: {gate['value']:.3f} (bound {gate['bound']:.2f}) {mark}")
    failed = [name for name, gate in gates.items() if not gate["passed"]]
    if failed and context.config.gates.enforce:
        raise UserError(
            f"Imagination is not to be trusted yet ({', '.join(failed)}): train the world model "
            "longer or on more play, or set gates.enforce to False to go on all the same."
        )
    return report


def run_after(context: RunContext) -> dict[str, Any]:
    """The same comparison under the improved policy: did it learn to exploit the model?"""
    return compare(context, context.trained.policy_params("improve"), "after")


def compare(context: RunContext, params: Any, when: str) -> dict[str, Any]:
    """Plays `params` in the real environment, sampled as in training, and replays in imagination.

    Returns outcome agreement and PSNR over the horizon; PSNR is that of the mean squared error
    over episodes, against the baseline that repeats the first frame. The simulator's outcomes are
    used here for the report only.
    """
    config = context.config
    seeds = context.starts("gates", 0, config.gates.episodes)
    trained, play = context.trained, context.player()
    parts = replicate(context.mesh, trained.imagined_parts())

    def imagine(
        params: Any, parts: ImaginedParts, real: Trajectory, key: jax.Array, free_key: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        acting = trained.policy.acting(params, config.policy.temperature)
        first = Observation(
            frame_BHWC=real.frames_BTHWC[:, 0], instruction_id_B=real.instruction_id_B
        )
        imagined = trained.imagined(parts)
        frames, success_B, _ = replay(real.actions_BNKA, imagined, first, key)
        free = rollout(acting, imagined, first, free_key, context.real.num_chunks)
        return frames, success_B, free.success_B

    imagine_all = sharding.compiled(context.mesh, imagine)
    keys = jax.random.split(context.key("gates"), -(-len(seeds) // BATCH))
    played = []
    for start, key in zip(range(0, len(seeds), BATCH), keys, strict=True):
        batch = jnp.asarray(seeds[start : start + BATCH])
        real_key, replay_key, free_key = jax.random.split(key, 3)
        real = play(params, batch, real_key)
        imagined = imagine_all(params, parts, real, replay_key, free_key)
        played.append(fetch((real, *imagined)))
    real, frames, predicted, free = jax.tree.map(lambda *xs: np.concatenate(xs), *played)
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
