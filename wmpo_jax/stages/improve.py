"""Stage 6: GRPO in imagination. After its first frame an episode uses nothing real.

Real episodes only check the policy now and then, where `config.monitor` pays for them.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from wmpo_jax.algorithm.protocols import Observation
from wmpo_jax.assembly import agents
from wmpo_jax.assembly.phases import phase_seconds
from wmpo_jax.assembly.seeds import span
from wmpo_jax.assembly.trained import imagined_sampler
from wmpo_jax.runtime.mesh import replicate, spread_if_even
from wmpo_jax.runtime.metrics import read_metrics
from wmpo_jax.runtime.progress import say
from wmpo_jax.stages.context import RunContext
from wmpo_jax.stages.monitor import BEST, RealMonitor, monitored
from wmpo_jax.stages.recorded import recorded
from wmpo_jax.training import grpo


def run(context: RunContext) -> dict[str, Any]:
    """Writes checkpoints/improve, the policy improved in imagination.

    Its result says which policy counts: the last one, or by `training.trust` an earlier one. Where
    failed gates stop reinforcement it is the one that this round begins with.
    """
    stopped = _stopped_by_gates(context)
    if stopped:
        return _unimproved(context, stopped)
    config, trained = agents.grpo_config(context.config), context.trained
    # Whole on every device: split, it would be gathered in each denoising step of each chunk.
    parts = replicate(context.mesh, trained.imagined_parts())
    min_step, chunks = context.config.reward.min_step, context.real.num_chunks
    twice = context.config.improve.get("imagine_twice", False)
    imagine = imagined_sampler(context.mesh, trained.policy, config, min_step, chunks, twice)
    monitor = RealMonitor(context, config.iterations, parts) if monitored(context) else None
    state, params = grpo.optimize(
        context.loop_files("improve"),
        context.mesh,
        trained.first_policy_params(),
        trained.policy,
        lambda params, start, key: imagine(params, parts, start, key),
        _starts(context),
        config,
        context.key("improve"),
        *([monitor] if monitor else []),
    )
    resets = int(state.starts)
    context.workdir.ledger.append(
        context.named("improve"),
        "imagination starts (first frames only)",
        episodes=0,
        control_steps=0,
        first_frames=resets,
        seeds=span(context.round_starts("imagination", 0, resets)),
    )
    alone = phase_seconds(context.mesh, context.env, trained.policy, params, parts, config, chunks)
    return {
        "step": int(state.iteration),
        "iterations": int(state.iteration),
        "imagined_episodes": int(state.episodes),
        "phase_seconds": _shared_out(context, alone),
        **(_judged(context, monitor) if monitor else {}),
    }


def _stopped_by_gates(context: RunContext) -> str:
    """Why imagination is not to be used; "" where it is, or no gate was checked."""
    done = context.workdir.done("gates")
    return context.workdir.result("gates").get("stops", "") if done else ""


def _unimproved(context: RunContext, reason: str) -> dict[str, Any]:
    folder, step = context.trained.first_policy()
    say(reason)
    return {
        "step": 0,
        "iterations": 0,
        "imagined_episodes": 0,
        "policy": [folder, step],
        "stopped": reason,
    }


def _judged(context: RunContext, monitor: RealMonitor) -> dict[str, Any]:
    """Where the policy that counts is, and the real checks that say so."""
    choice, checks = monitor.choice(), monitor.checks
    places = {checks[-1].iteration: (context.named("improve"), checks[-1].iteration)}
    places[0] = context.trained.first_policy()
    place = places.get(choice.iteration, (context.named(BEST), choice.iteration))
    if choice.reason:
        say(choice.reason)
    rows = [
        {"iteration": check.iteration, "n": len(check.real_B), **check.metrics} for check in checks
    ]
    return {
        "policy": list(place),
        "policy_iteration": choice.iteration,
        "monitor_episodes": sum(row["n"] for row in rows),
        "checks": rows,
        **({"stopped": choice.reason} if choice.reason else {}),
    }


def _shared_out(context: RunContext, alone: Mapping[str, float]) -> dict[str, float]:
    """The measured seconds of sampling, shared out as its parts take when run alone; and update."""
    name = context.named("improve")
    records = read_metrics(context.workdir.metrics / f"{name}.jsonl")
    spent = {
        phase: sum(r.get(f"{name}/seconds_{phase}", 0.0) for r in records)
        for phase in ("sample", "update", "monitor")
    }
    share = spent.pop("sample") / sum(alone.values())
    return {part: seconds * share for part, seconds in alone.items()} | spent


def _starts(context: RunContext) -> grpo.Starts:
    """Fresh starts, each for one whole group: first frames, and keyframes where config asks."""
    look, share = context.real.first_frames(), context.config.improve.get("keyframe_share", 0.0)
    keyframes = _keyframes(context) if share else None
    seed = int(jax.random.bits(context.key("keyframes")))

    def starts(first: int, count: int) -> Observation:
        seen = look(context.round_starts("imagination", first, count))
        frames, words = np.array(seen.frame_BHWC), np.array(seen.instruction_id_B)
        for row in range(count):
            random = np.random.default_rng((seed, first + row))
            if keyframes and len(keyframes[1]) and random.random() < share:
                place = random.integers(len(keyframes[1]))
                frames[row], words[row] = keyframes[0][place], keyframes[1][place]
        return spread_if_even(context.mesh, seen.replace(frame_BHWC=frames, instruction_id_B=words))

    return starts


def _keyframes(context: RunContext) -> tuple[np.ndarray, np.ndarray]:
    """What the policy saw at its later decisions in all real rollouts, until they had succeeded.

    Imagination that begins there practices what it seldom reaches by itself, with the whole of an
    episode's time. Returns uint8 frames [X, H, W, C] and int32 instructions [X].
    """
    frames, words = [], []
    for name, stage in recorded(context).items():
        if not name.startswith("rollouts"):
            continue
        episodes = context.episodes(name, stage)
        steps = np.arange(context.env.chunk, context.env.horizon, context.env.chunk)
        row, place = np.nonzero(steps[None] < episodes["finish_step_B"][:, None])
        frames.append(episodes["frames_BTHWC"][row, steps[place]])
        words.append(episodes["instruction_id_B"][row])
    return np.concatenate(frames), np.concatenate(words)
