"""The one rollout: a policy in a world, chunk after chunk; it cannot tell which world."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from wmpo_jax.algorithm.protocols import ChunkOutcome, Dynamics, Observation, Policy, PolicyOutput
from wmpo_jax.algorithm.trajectory import Experience, Trajectory, first_success
from wmpo_jax.runtime.sharding import spread_batch


def rollout(
    policy: Policy,
    dynamics: Dynamics,
    start: Any,
    key: jax.Array,
    num_chunks: int,
) -> Trajectory:
    """Runs `policy` for `num_chunks` chunks from every start (WMPO section 3, algorithm 1).

    Args:
      policy: called on the newest frame of each chunk.
      dynamics: MJX or the world model with its reward model.
      start: pytree with leading axis B that `dynamics.reset` understands.
      key: jax PRNG key.
      num_chunks: N, static.
    """
    reset_key, scan_key = jax.random.split(key)
    first = dynamics.reset(start, reset_key)
    _, choices, outcomes = _scan(policy, dynamics, first, scan_key, num_chunks, videos=True)
    return _to_trajectory(first[1], choices, outcomes)


def rollout_groups(
    policy: Policy,
    dynamics: Dynamics,
    start: Any,
    key: jax.Array,
    num_chunks: int,
    group_size: int,
) -> Experience:
    """`group_size` episodes from every start, side by side, without their videos.

    The members of a group share the reset: the first frame is encoded once. In memory are the
    frames on which the policy decided, a K-th of the video.

    Args:
      start: as for `rollout`, leading axis G; the episodes are G x group_size.
    """
    reset_key, scan_key = jax.random.split(key)

    def members(leaf: jax.Array) -> jax.Array:
        return spread_batch(jnp.repeat(leaf, group_size, axis=0)) if leaf.ndim else leaf

    first = jax.tree.map(members, dynamics.reset(start, reset_key))
    frames, choices, outcomes = _scan(policy, dynamics, first, scan_key, num_chunks, videos=False)
    success_B, finish_step_B, _ = _ends(outcomes)
    return Experience(
        frames_BNHWC=frames.swapaxes(0, 1),
        tokens_BNKA=choices.tokens_BKA.swapaxes(0, 1),
        log_probs_BNKA=choices.log_probs_BKA.swapaxes(0, 1),
        instruction_id_B=first[1].instruction_id_B,
        success_B=success_B,
        finish_step_B=finish_step_B,
    )


def _scan(
    policy: Policy,
    dynamics: Dynamics,
    first: tuple[Any, Observation],
    key: jax.Array,
    num_chunks: int,
    videos: bool,
) -> tuple[jax.Array, PolicyOutput, ChunkOutcome]:
    """Decision frames, choices, outcomes, chunk outermost; without `videos` these lack frames."""

    def one_chunk(carry: tuple[Any, Observation], chunk_key: jax.Array) -> tuple[Any, Any]:
        state, observation = carry
        policy_key, world_key = jax.random.split(chunk_key)
        choice = policy(observation, policy_key)
        state, after, outcome = dynamics.step(state, choice.actions_BKA, world_key)
        if not videos:
            outcome = outcome.replace(frames_BKHWC=outcome.frames_BKHWC[:, :0])
        return (state, after), (observation.frame_BHWC, choice, outcome)

    return jax.lax.scan(one_chunk, first, jax.random.split(key, num_chunks))[1]


def rollout_on_host(
    policy: Policy,
    dynamics: Dynamics,
    start: Any,
    key: jax.Array,
    num_chunks: int,
    videos: bool = True,
) -> Trajectory:
    """`rollout` as a Python loop, for a world that cannot live inside jit. Same keys, same shape.

    Args:
      policy: compiled by the caller.
      dynamics: its arrays may be NumPy's.
      videos: False keeps the first frame only; hours of video do not fit into memory.
    """
    reset_key, scan_key = jax.random.split(key)
    state, first = dynamics.reset(start, reset_key)
    observation, history = first, []
    for chunk_key in jax.random.split(scan_key, num_chunks):
        policy_key, world_key = jax.random.split(chunk_key)
        choice = policy(observation, policy_key)
        state, observation, outcome = dynamics.step(state, choice.actions_BKA, world_key)
        kept = outcome.frames_BKHWC if videos else outcome.frames_BKHWC[:, :0]
        history.append((choice, outcome.replace(frames_BKHWC=kept)))
    choices, outcomes = jax.tree.map(lambda *leaves: np.stack(leaves), *history)
    return _to_trajectory(first, choices, outcomes)


def replay(
    actions_BNKA: jax.Array, dynamics: Dynamics, start: Any, key: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Executes recorded normalized chunks: (frames_BTHWC uint8, success_B bool, finish_step_B)."""
    reset_key, scan_key = jax.random.split(key)
    state, first = dynamics.reset(start, reset_key)

    def one_chunk(state: Any, chunk: tuple[jax.Array, jax.Array]) -> tuple[Any, ChunkOutcome]:
        actions_BKA, chunk_key = chunk
        state, _, outcome = dynamics.step(state, actions_BKA, chunk_key)
        return state, outcome

    keys = jax.random.split(scan_key, actions_BNKA.shape[1])
    _, outcomes = jax.lax.scan(one_chunk, state, (actions_BNKA.swapaxes(0, 1), keys))
    success_B, finish_step_B = first_success(_join(outcomes.success_BK))
    return _video(first, outcomes), success_B, finish_step_B


def without_contradicted(
    episodes: Experience, actions_BNKA: jax.Array, dynamics: Dynamics, start: Any, key: jax.Array
) -> Experience:
    """Masks episodes whose outcome another rollout of the same actions contradicts.

    In imagination with other noise such an episode is one that the world model does not know. Its
    finish_step becomes 0, so that none of its tokens counts; its outcome stays its group's.

    Args:
      actions_BNKA: normalized, of `episodes`.
      start: as for `rollout_groups`, leading axis G.
      key: another one than that of `episodes`.
    """
    size = len(episodes.success_B) // len(jax.tree.leaves(start)[0])
    members = jax.tree.map(lambda leaf: spread_batch(jnp.repeat(leaf, size, axis=0)), start)
    _, success_B, _ = replay(actions_BNKA, dynamics, members, key)
    agreed_B = success_B == episodes.success_B
    return episodes.replace(finish_step_B=jnp.where(agreed_B, episodes.finish_step_B, 0))


def _join(scanned_NBK: jax.Array) -> jax.Array:
    return rearrange(scanned_NBK, "n b k ... -> b (n k) ...")


def _video(first: Observation, outcomes: ChunkOutcome) -> jax.Array:
    return jnp.concatenate([first.frame_BHWC[:, None], _join(outcomes.frames_BKHWC)], axis=1)


def _ends(outcomes: ChunkOutcome) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(success_B, finish_step_B, invalid_B) of whole episodes; broken physics is a failure."""
    invalid_B = outcomes.invalid_B.any(axis=0)
    return *first_success(_join(outcomes.success_BK) & ~invalid_B[:, None]), invalid_B


def _to_trajectory(first: Observation, choices: PolicyOutput, outcomes: ChunkOutcome) -> Trajectory:
    choices = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), choices)
    success_B, finish_step_B, invalid_B = _ends(outcomes)
    return Trajectory(
        frames_BTHWC=_video(first, outcomes),
        tokens_BNKA=choices.tokens_BKA,
        actions_BNKA=choices.actions_BKA,
        log_probs_BNKA=choices.log_probs_BKA,
        instruction_id_B=first.instruction_id_B,
        success_B=success_B,
        finish_step_B=finish_step_B,
        invalid_B=invalid_B,
    )
