"""Stage 5: the reward model, and the threshold from which it is believed."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from wmpo_jax.algorithm.imagination import imagine_video
from wmpo_jax.algorithm.trajectory import first_success
from wmpo_jax.models.videomae import VideoMAE
from wmpo_jax.report.intervals import reliability
from wmpo_jax.runtime import sharding
from wmpo_jax.runtime.files import load_arrays
from wmpo_jax.runtime.mesh import fetch, spread_padded
from wmpo_jax.stages import networks, training
from wmpo_jax.stages.agents import VideoRewardModel, VideoWorldModel, reward_network, success_logits
from wmpo_jax.stages.autoencoder import load_video, recorded
from wmpo_jax.stages.setting import Setting
from wmpo_jax.stages.world_model import load_world_model, normalized_actions

LABELLED = ("demos", "rollouts")
SOURCES = ("camera", "decoded", "imagined")
REPLAY_BATCH = 64
WEIGHT_DECAY = 0.05
THRESHOLDS = 1 / (1 + np.exp(-np.linspace(-4, 6, 51)))


def run(setting: Setting) -> None:
    """Writes checkpoints/reward and the threshold that reward models held-out episodes best.

    The classifier is used on imagined frames only, so it learns and is validated on them too: on
    the labeled episodes replayed in the world model, with what really happened as the label.
    Where imagination is unsure, so is the reward model then.
    """
    started = time.monotonic()
    section = setting.config.reward
    dreamer = load_world_model(setting, load_video(setting))
    sources = {name: stage for name, stage in recorded(setting).items() if name in LABELLED}
    sets = {name: _labeled(setting, dreamer, name, stage) for name, stage in sources.items()}
    train, held_out = _split(sets, section.validation_fraction)
    graphdef, params = networks.create(setting, "reward", lambda: _network(setting))
    optimizer = _optimizer(setting)
    step_fn = training.make_step(
        setting.mesh,
        lambda params, data, key, _: _loss(graphdef, setting, params, data, key),
        optimizer,
        setting.key("reward"),
        accumulate=section.get("accumulate", 1),
    )
    state = training.fit(
        "reward",
        training.initial_state(setting.mesh, params, optimizer),
        step_fn,
        _joined(train),
        section.steps,
        section.checkpoint_every,
        setting,
    )
    reward_model = VideoRewardModel(state.params, graphdef, section.window)
    scores = {name: _scores(setting, reward_model, e, "imagined") for name, e in held_out.items()}
    threshold = _best_threshold(setting, scores, held_out)
    report = {}
    for name, episodes in held_out.items():
        seen = _scores(setting, reward_model, episodes, "decoded")
        report[name] = _confusion(setting, seen, episodes, threshold)
        report[f"{name}_imagined"] = _confusion(setting, scores[name], episodes, threshold)
    result = {"threshold": threshold, **report, "calibration": _calibration(scores, held_out)}
    setting.workdir.mark_done("reward", {"seconds": time.monotonic() - started, **result})


def load_reward_model(setting: Setting) -> tuple[VideoRewardModel, float]:
    """The trained classifier and its threshold."""
    graphdef, params = training.abstract(setting.mesh, lambda: _network(setting))
    template = training.state_template(setting.mesh, params, _optimizer(setting))
    params = training.load_params(setting, "reward", template)
    threshold = setting.workdir.result("reward")["threshold"]
    return VideoRewardModel(params, graphdef, setting.config.reward.window), threshold


def _network(setting: Setting) -> VideoMAE:
    return reward_network(setting.config, setting.env)


def _optimizer(setting: Setting) -> Any:
    section = setting.config.reward
    return training.adamw(section.learning_rate, section.steps, WEIGHT_DECAY)


def _labeled(
    setting: Setting, dreamer: VideoWorldModel, name: str, stage: str
) -> dict[str, np.ndarray]:
    """The frames of camera, autoencoder and imagination, and when success began."""
    episodes = setting.episodes(name, stage)
    latents = load_arrays(setting.workdir.data(name) / "latents.npz", "autoencoder")
    actions = rearrange(
        normalized_actions(setting, episodes), "e (n k) a -> e n k a", k=setting.env.chunk
    )
    camera = episodes["frames_BTHWC"]
    decode = sharding.compiled(setting.mesh, VideoWorldModel.decode)
    imagine = sharding.compiled(setting.mesh, imagine_video)
    decoded, imagined = [], []
    for part in range(0, len(actions), REPLAY_BATCH):
        rows = slice(part, part + REPLAY_BATCH)
        batch = latents["latents_BThwc"][rows], camera[rows, 0], actions[rows]
        real, first, chosen = spread_padded(setting.mesh, batch)
        key = jax.random.fold_in(setting.key(f"replay {name}"), part)
        decoded.append(fetch(decode(dreamer, real))[: len(batch[0])])
        imagined.append(fetch(imagine(dreamer, first, chosen, key))[: len(batch[0])])
    return {
        "camera_ETHWC": camera,
        "decoded_ETHWC": np.concatenate(decoded),
        "imagined_ETHWC": np.concatenate(imagined),
        "success_E": episodes["success_B"],
        "finish_step_E": episodes["finish_step_B"],
        "instruction_id_E": episodes["instruction_id_B"],
    }


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


def _loss(
    graphdef: Any, setting: Setting, params: Any, data: dict[str, jax.Array], key: jax.Array
) -> tuple[jax.Array, Mapping[str, jax.Array]]:
    """Cross-entropy on windows; a window is positive if success holds in its last frame."""
    frames, labels, goals = training.spread(setting.mesh, _windows(setting, data, key))
    network = nnx.merge(graphdef, params)
    logits_B2 = success_logits(network(network.preprocess(frames)), goals)
    log_probs = jax.nn.log_softmax(logits_B2)
    loss = -jnp.take_along_axis(log_probs, labels[:, None].astype(jnp.int32), axis=1).mean()
    hit = (log_probs[:, 1] > log_probs[:, 0]) == labels
    return loss, {"accuracy": hit.mean()}


def _windows(
    setting: Setting, data: dict[str, jax.Array], key: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    section = setting.config.reward
    episode_key, end_key, source_key = jax.random.split(key, 3)
    shape = (section.batch_size,)
    episode_B = jax.random.randint(episode_key, shape, 0, data["instruction_id_E"].shape[0])
    end_B = jax.random.randint(end_key, shape, 1, setting.env.horizon + 1)
    time_BT = jnp.maximum(end_B[:, None] + jnp.arange(1 - section.window, 1), 0)
    videos = jnp.stack([data[f"{source}_ETHWC"][episode_B[:, None], time_BT] for source in SOURCES])
    source_B = jax.random.randint(source_key, shape, 0, len(SOURCES))
    frames = videos[source_B, jnp.arange(section.batch_size)]
    labels = data["success_E"][episode_B] & (end_B >= data["finish_step_E"][episode_B])
    return frames, labels, data["instruction_id_E"][episode_B]


def _scores(
    setting: Setting, reward_model: VideoRewardModel, episodes: dict[str, Any], source: str
) -> np.ndarray:
    """Probability of success after each action, on the frames of `source`; float32 [E, T - 1]."""
    frames = episodes[f"{source}_ETHWC"]
    before = np.repeat(frames[:, :1], reward_model.window - 2, axis=1)
    videos, goals = spread_padded(
        setting.mesh, (np.concatenate([before, frames], axis=1), episodes["instruction_id_E"])
    )
    score = sharding.compiled(setting.mesh, VideoRewardModel.score)
    return fetch(score(reward_model, videos, goals))[: len(frames)]


def _best_threshold(setting: Setting, scores: dict, held_out: dict) -> float:
    """Fewest false successes or fewest misses, whichever are more; among equals the middle one.

    Counted over imagined episodes of both sources. Both kinds of error are held down at once, so
    that imagination succeeds about as often as reality. Fewest errors of any kind would let false
    successes outnumber misses, and the best F1 forgives them where successes are rare: they are
    what reinforcement exploits.
    """
    errors = []
    for threshold in THRESHOLDS:
        counts = [_confusion(setting, scores[n], held_out[n], threshold) for n in held_out]
        errors.append(max(sum(c["fp"] for c in counts), sum(c["fn"] for c in counts)))
    best = np.flatnonzero(np.asarray(errors) == min(errors))
    return float(THRESHOLDS[best[len(best) // 2]])


def _confusion(
    setting: Setting, scores_ET: np.ndarray, episodes: dict[str, Any], threshold: float
) -> dict[str, Any]:
    """Counts of judged against true outcomes of whole episodes."""
    executed = 1 + np.arange(scores_ET.shape[1])
    hit_ET = (scores_ET >= threshold) & (executed >= setting.config.reward.min_step)
    judged, _ = first_success(jnp.asarray(hit_ET))
    return confusion(np.asarray(judged), np.asarray(episodes["success_E"]))


def _calibration(scores: dict, held_out: dict) -> dict[str, list]:
    """Reliability of the window probabilities on held-out episodes."""
    probability, outcome = [], []
    for name, episodes in held_out.items():
        executed = 1 + np.arange(scores[name].shape[1])
        since = np.asarray(episodes["finish_step_E"])[:, None]
        probability.append(scores[name].ravel())
        outcome.append((np.asarray(episodes["success_E"])[:, None] & (executed >= since)).ravel())
    return reliability(np.concatenate(probability), np.concatenate(outcome))


def confusion(judged: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """tp, fp, fn, tn, precision, recall, agreement and both rates of boolean outcomes."""
    tp, fp = int((judged & true).sum()), int((judged & ~true).sum())
    fn, tn = int((~judged & true).sum()), int((~judged & ~true).sum())
    return {
        "n": len(true),
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "tn": tn,
        "precision": tp / max(tp + fp, 1),
        "recall": tp / max(tp + fn, 1),
        "agreement": (tp + tn) / max(len(true), 1),
        "imagined_rate": float(np.mean(judged)),
        "real_rate": float(np.mean(true)),
    }
