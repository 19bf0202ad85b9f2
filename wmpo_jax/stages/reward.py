"""Stage 5: the reward model, and the threshold from which its score counts as success."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import Mesh
from ml_collections import ConfigDict

from wmpo_jax.agents.reward_model import SuccessRule, VideoRewardModel, episode_outcomes
from wmpo_jax.agents.world_model import VideoWorldModel
from wmpo_jax.algorithm.imagination import imagine_video
from wmpo_jax.assembly import agents
from wmpo_jax.assembly.trained import TrainedRun
from wmpo_jax.report.intervals import reliability
from wmpo_jax.runtime import sharding
from wmpo_jax.runtime.files import load_arrays
from wmpo_jax.runtime.mesh import fetch, host_rows, spread_padded
from wmpo_jax.stages.context import RunContext
from wmpo_jax.stages.recorded import recorded
from wmpo_jax.stages.world_model import normalized_actions
from wmpo_jax.training import reward_model as training
from wmpo_jax.training.fit import Stream, fit
from wmpo_jax.training.state import initial_state

REPLAY_BATCH = 64
THRESHOLDS = 1 / (1 + np.exp(-np.linspace(-4, 6, 51)))


def run(context: RunContext) -> dict[str, Any]:
    """Writes checkpoints/reward and the threshold that classifies held-out episodes best.

    The reward model is used on imagined frames only, so it learns and is validated on them too: on
    the labeled episodes replayed in the world model, with what really happened as the label.
    Where imagination is uncertain, so is the reward model then.
    """
    section, config = context.config.reward, agents.reward_training(context.config, context.env)
    world_model = context.trained.world_model()
    sources = {name: stage for name, stage in recorded(context).items() if name != "play"}
    sets = {name: _labeled(context, world_model, name, stage) for name, stage in sources.items()}
    train, held_out = _split(sets, section.validation_fraction)
    build = lambda: agents.reward_network(context.config, context.env)  # noqa: E731
    graphdef, params = context.begin("reward", build, TrainedRun.reward_model_params)
    if context.round > 1:
        steps = dataclasses.replace(config.optimizer, steps=context.config.lifelong.reward_steps)
        config = dataclasses.replace(config, optimizer=steps)
    state = fit(
        context.loop_files("reward"),
        context.mesh,
        initial_state(context.mesh, params, training.optimizer(config)),
        training.step_function(context.mesh, graphdef, config, context.key("reward")),
        Stream(_loader(context, _joined(train), config)),
        config.optimizer.steps,
        section.checkpoint_every,
    )
    reward_model = agents.reward_model(context.config, context.env, state.params)
    scored = {
        source: {
            name: _scores(context.mesh, reward_model, episodes, source)
            for name, episodes in held_out.items()
        }
        for source in ("imagined", "decoded")
    }
    threshold = _best_threshold(section, scored["imagined"], held_out)
    report = {}
    for name, episodes in held_out.items():
        for source, key in (("decoded", name), ("imagined", f"{name}_imagined")):
            report[key] = _confusion(section, scored[source][name], episodes, threshold)
    calibration = _calibration(scored["imagined"], held_out)
    return {"step": int(state.step), "threshold": threshold, **report, "calibration": calibration}


def _labeled(
    context: RunContext, world_model: VideoWorldModel, name: str, stage: str
) -> dict[str, np.ndarray]:
    """The frames of camera, autoencoder and imagination, and when success began."""
    episodes = context.episodes(name, stage)
    latents = load_arrays(context.workdir.data(name) / "latents.npz", "autoencoder")
    actions = rearrange(
        normalized_actions(episodes, context.statistics),
        "e (n k) a -> e n k a",
        k=context.env.chunk,
    )
    camera = episodes["frames_BTHWC"]
    decode = sharding.compiled(context.mesh, VideoWorldModel.decode)
    imagine = sharding.compiled(context.mesh, imagine_video)
    decoded, imagined = [], []
    for part in range(0, len(actions), REPLAY_BATCH):
        rows = slice(part, part + REPLAY_BATCH)
        batch = latents["latents_BThwc"][rows], camera[rows, 0], actions[rows]
        real, first, chosen = spread_padded(context.mesh, batch)
        key = jax.random.fold_in(context.key(f"replay {name}"), part)
        decoded.append(fetch(decode(world_model, real))[: len(batch[0])])
        imagined.append(fetch(imagine(world_model, first, chosen, key))[: len(batch[0])])
    return {
        "camera_ETHWC": camera,
        "decoded_ETHWC": np.concatenate(decoded),
        "imagined_ETHWC": np.concatenate(imagined),
        "success_E": episodes["success_B"],
        "finish_step_E": episodes["finish_step_B"],
        "instruction_id_E": episodes["instruction_id_B"],
    }


def _loader(
    context: RunContext, episodes: dict[str, np.ndarray], config: training.RewardTraining
) -> training.EpisodeWindows:
    seed = int(jax.random.bits(context.key("reward data")))
    rows = host_rows(context.mesh, config.batch_size * config.accumulate)
    return training.EpisodeWindows(episodes, config, seed, rows)


def _split(sets: dict[str, dict[str, Any]], fraction: float) -> tuple[dict, dict]:
    """Whole episodes go to one side; the last `fraction` (whole groups of rollouts) is held out."""

    def cut(episodes: dict[str, Any], head: bool) -> dict[str, Any]:
        place = round(len(episodes["instruction_id_E"]) * (1.0 - fraction))
        return {k: v[:place] if head else v[place:] for k, v in episodes.items()}

    train = {name: cut(episodes, True) for name, episodes in sets.items()}
    held_out = {name: cut(episodes, False) for name, episodes in sets.items()}
    return train, held_out


def _joined(sets: dict[str, dict[str, Any]]) -> dict[str, np.ndarray]:
    return jax.tree.map(lambda *xs: np.concatenate(xs), *sets.values())


def _scores(
    mesh: Mesh, reward_model: VideoRewardModel, episodes: dict[str, Any], source: str
) -> np.ndarray:
    """Probability of success after each action, on the frames of `source`; float32 [E, T - 1]."""
    frames = episodes[f"{source}_ETHWC"]
    before = np.repeat(frames[:, :1], reward_model.window - 2, axis=1)
    videos, instruction_ids = spread_padded(
        mesh, (np.concatenate([before, frames], axis=1), episodes["instruction_id_E"])
    )
    score = sharding.compiled(mesh, VideoRewardModel.score)
    return fetch(score(reward_model, videos, instruction_ids))[: len(frames)]


def _best_threshold(section: ConfigDict, scores: dict, held_out: dict) -> float:
    """Fewest false successes or fewest misses, whichever are more; among equals the middle one.

    Counted over imagined episodes of both sources. Both kinds of error are held down at once, so
    that imagination succeeds about as often as reality. Fewest errors of any kind would let false
    successes outnumber misses, and the best F1 forgives them where successes are rare: they are
    what reinforcement exploits.
    """
    errors = []
    for threshold in THRESHOLDS:
        counts = [_confusion(section, scores[n], held_out[n], threshold) for n in held_out]
        errors.append(max(sum(c["fp"] for c in counts), sum(c["fn"] for c in counts)))
    best = np.flatnonzero(np.asarray(errors) == min(errors))
    return float(THRESHOLDS[best[len(best) // 2]])


def _confusion(
    section: ConfigDict, scores_ET: np.ndarray, episodes: dict[str, Any], threshold: float
) -> dict[str, Any]:
    """Counts of predicted against true outcomes of whole episodes."""
    rule = SuccessRule(threshold, section.min_step)
    predicted, _ = episode_outcomes(jnp.asarray(scores_ET), 1, section.window, rule)
    return confusion(np.asarray(predicted), np.asarray(episodes["success_E"]))


def _calibration(scores: dict, held_out: dict) -> dict[str, list]:
    """Reliability of the window probabilities on held-out episodes."""
    probability, outcome = [], []
    for name, episodes in held_out.items():
        executed = 1 + np.arange(scores[name].shape[1])
        since = np.asarray(episodes["finish_step_E"])[:, None]
        probability.append(scores[name].ravel())
        outcome.append((np.asarray(episodes["success_E"])[:, None] & (executed >= since)).ravel())
    return reliability(np.concatenate(probability), np.concatenate(outcome))


def confusion(predicted: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """tp, fp, fn, tn, precision, recall, agreement and both rates of boolean outcomes."""
    tp, fp = int((predicted & true).sum()), int((predicted & ~true).sum())
    fn, tn = int((~predicted & true).sum()), int((~predicted & ~true).sum())
    return {
        "n": len(true),
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "tn": tn,
        "precision": tp / max(tp + fp, 1),
        "recall": tp / max(tp + fn, 1),
        "agreement": (tp + tn) / max(len(true), 1),
        "imagined_rate": float(np.mean(predicted)),
        "real_rate": float(np.mean(true)),
    }
