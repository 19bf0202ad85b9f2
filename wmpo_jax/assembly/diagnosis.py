"""The ladder of diagnosis: where between reality and imagination a policy's success changes.

Rungs, each with the same starts and the same keys: (a) the policy acts in the real environment on
camera frames; (b) the same on the autoencoder's reconstructions; (c) the same on frames predicted
one chunk ahead from real history; (d) it acts in imagination, and the true state of the same
actions says what they achieve; (e) the same episodes, scored by the reward model. What changes from
(a) to (b) is the autoencoder's doing, to (c) the world model's within a chunk, to (d) that of
errors that add up, to (e) the reward model's (or the frames' that it sees).

True states are used here for the report alone.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import struct
from jax.sharding import Mesh

from wmpo_jax.algorithm.ladder import AnchoredDynamics, ReconstructedDynamics
from wmpo_jax.algorithm.protocols import Observation
from wmpo_jax.algorithm.rollout import rollout
from wmpo_jax.algorithm.trajectory import Trajectory
from wmpo_jax.assembly.real import RealDynamics
from wmpo_jax.assembly.trained import ImaginedParts, TrainedRun
from wmpo_jax.envs.protocol import Environment, EnvState
from wmpo_jax.report.intervals import paired_difference, wilson
from wmpo_jax.runtime import sharding

RUNGS = ("camera", "reconstructed", "one chunk", "imagined, true", "imagined, scored")
MISS_BINS = 8


class TrueEpisodes(struct.PyTreeNode):
    """What recorded actions do in the real environment.

    Attributes:
      frames_BTHWC: uint8. geom_BTHW: int8, the geom that each pixel shows, -1 for none.
      success_B: bool.
      miss_B: float32 meters, the least of the episode; infinite where nothing was ever decided.
    """

    frames_BTHWC: jax.Array
    geom_BTHW: jax.Array
    success_B: jax.Array
    miss_B: jax.Array


class Ladder(struct.PyTreeNode):
    """The episodes of all rungs.

    Attributes:
      camera, reconstructed, anchored: rungs (a), (b), (c); the frames of `anchored` are predicted.
      imagined: rungs (d) and (e); its `success_B` is the reward model's.
      true_anchored, true_imagined: what the actions of two rungs did in the real environment.
      reconstructed_BTHWC: the frames of `camera` after the autoencoder.
    """

    camera: Trajectory
    reconstructed: Trajectory
    anchored: Trajectory
    imagined: Trajectory
    true_camera: TrueEpisodes
    true_anchored: TrueEpisodes
    true_imagined: TrueEpisodes
    reconstructed_BTHWC: jax.Array


def climber(
    run: TrainedRun, env: Environment, num_chunks: int, mesh: Mesh
) -> Callable[[Any, ImaginedParts, jax.Array, jax.Array], Ladder]:
    """Compiled: (policy's params, imagined parts, starts [B], key) -> all rungs."""
    real = RealDynamics(env, run.statistics)

    def climb(params: Any, parts: ImaginedParts, starts_B: jax.Array, key: jax.Array) -> Ladder:
        acting = run.policy.acting(params, run.config.policy.temperature)
        world_model = parts[0]

        def play(dynamics: Any, start: Any = starts_B) -> Trajectory:
            return rollout(acting, dynamics, start, key, num_chunks)

        camera = play(real)
        first = Observation(
            frame_BHWC=camera.frames_BTHWC[:, 0], instruction_id_B=camera.instruction_id_B
        )
        anchored = play(AnchoredDynamics(real, world_model))
        imagined = play(run.imagined(parts), first)

        def truth(trajectory: Trajectory) -> TrueEpisodes:
            actions = run.statistics.unnormalize(trajectory.actions_BNKA)
            return true_episodes(env, starts_B, jnp.asarray(actions))

        return Ladder(
            camera=camera,
            reconstructed=play(ReconstructedDynamics(real, world_model)),
            anchored=anchored,
            imagined=imagined,
            true_camera=truth(camera),
            true_anchored=truth(anchored),
            true_imagined=truth(imagined),
            reconstructed_BTHWC=world_model.decode(world_model.encode(camera.frames_BTHWC, key)),
        )

    return sharding.compiled(mesh, climb)


def true_episodes(env: Any, starts_B: jax.Array, actions_BNKA: jax.Array) -> TrueEpisodes:
    """Executes actions in the environment's own units from each start.

    Args:
      env: `Environment` and `Witnessed`.
    """

    def seen(state: EnvState) -> tuple[jax.Array, jax.Array, jax.Array]:
        witness = env.witness(state)
        return env.render(state), witness.geom_HW.astype(jnp.int8), witness.miss

    def one(state: EnvState, action_BA: jax.Array) -> tuple[EnvState, Any]:
        state = jax.vmap(env.step)(state, action_BA)
        return state, jax.vmap(seen)(state)

    start = jax.vmap(env.reset)(starts_B)
    first = jax.vmap(seen)(start)
    state, later = jax.lax.scan(one, start, rearrange(actions_BNKA, "b n k a -> (n k) b a"))
    frames, geoms, miss = (
        jnp.concatenate([a[None], b]).swapaxes(0, 1) for a, b in zip(first, later, strict=True)
    )
    return TrueEpisodes(frames, geoms, state.success & ~state.invalid, miss.min(axis=1))


def report(ladder: Ladder, geom_names: tuple[str, ...]) -> dict[str, Any]:
    """What the page shows: rungs, PSNR over the steps, errors by geom, rates by miss.

    Args:
      ladder: as NumPy arrays.
    """
    predicted = {
        "reconstructed": (ladder.reconstructed_BTHWC, ladder.true_camera),
        "one chunk": (ladder.anchored.frames_BTHWC, ladder.true_anchored),
        "imagined": (ladder.imagined.frames_BTHWC, ladder.true_imagined),
    }
    errors = {
        name: (_square_error(frames, true.frames_BTHWC), np.asarray(true.geom_BTHW))
        for name, (frames, true) in predicted.items()
    }
    return {
        "n": len(ladder.camera.success_B),
        "rungs": _rungs(ladder),
        "psnr_curve": {
            name: [_decibel(e) for e in error[:, 1:].mean(axis=(0, 2, 3))]
            for name, (error, _) in errors.items()
        },
        "geoms": {
            name: errors_by_geom(error[:, 1:], geoms[:, 1:], geom_names)
            for name, (error, geoms) in errors.items()
        },
        "by_miss": rates_by_miss(
            np.asarray(ladder.true_imagined.miss_B),
            {
                "real": np.asarray(ladder.true_imagined.success_B),
                "imagined": np.asarray(ladder.imagined.success_B),
            },
        ),
    }


def _rungs(ladder: Ladder) -> dict[str, dict[str, Any]]:
    """Success of each rung, and its paired difference from the one before."""
    outcomes = dict(
        zip(
            RUNGS,
            (
                ladder.camera.success_B,
                ladder.reconstructed.success_B,
                ladder.anchored.success_B,
                ladder.true_imagined.success_B,
                ladder.imagined.success_B,
            ),
            strict=True,
        )
    )
    rows: dict[str, dict[str, Any]] = {}
    before = None
    for name, success_B in outcomes.items():
        success_B = np.asarray(success_B)
        rate = wilson(int(success_B.sum()), len(success_B))
        rows[name] = {"rate": rate.estimate, "low": rate.low, "high": rate.high}
        if before is not None:
            change = paired_difference(before, success_B)._asdict()
            rows[name]["change"] = {key: float(value) for key, value in change.items()}
            rows[name]["agreement"] = float((before == success_B).mean())
        before = success_B
    return rows


def errors_by_geom(
    error_BTHW: np.ndarray, geom_BTHW: np.ndarray, names: tuple[str, ...]
) -> dict[str, dict[str, float]]:
    """Of each geom that is seen: share of the pixels, share of the error, PSNR in its mask."""
    total = max(float(error_BTHW.sum()), 1e-12)
    rows = {}
    for index, name in enumerate(names):
        mask = geom_BTHW == index
        if mask.any():
            inside = error_BTHW[mask]
            rows[name] = {
                "pixels": float(mask.mean()),
                "error": float(inside.sum() / total),
                "psnr": _decibel(inside.mean()),
            }
    return rows


def rates_by_miss(
    miss_B: np.ndarray, outcomes: Mapping[str, np.ndarray], bins: int = MISS_BINS
) -> list[dict[str, float]]:
    """Success rates among episodes of about the same miss; the last row never came to decide.

    A world model that can be trusted has rates that fall where the real ones do.
    """
    decided = np.flatnonzero(np.isfinite(miss_B))
    groups = np.array_split(decided[np.argsort(miss_B[decided], kind="stable")], bins)
    rows = [
        {"from": float(miss_B[group[0]]), "to": float(miss_B[group[-1]]), **_rates(group, outcomes)}
        for group in groups
        if len(group)
    ]
    never = np.flatnonzero(~np.isfinite(miss_B))
    return rows + ([_rates(never, outcomes)] if len(never) else [])


def _rates(group: np.ndarray, outcomes: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {
        "n": len(group),
        **{name: float(success_B[group].mean()) for name, success_B in outcomes.items()},
    }


def _square_error(a_BTHWC: Any, b_BTHWC: Any) -> np.ndarray:
    """Mean over channels of the squared difference of uint8 frames in 0..1, [B, T, H, W]."""
    difference = (np.asarray(a_BTHWC, np.float32) - np.asarray(b_BTHWC, np.float32)) / 255.0
    return np.square(difference).mean(axis=-1)


def _decibel(mean_square: float) -> float:
    return float(-10.0 * np.log10(mean_square + 1e-12))
