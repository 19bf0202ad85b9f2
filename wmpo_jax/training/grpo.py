"""The GRPO trainer: sample groups in an environment, keep the mixed ones, update.

Improvement in imagination, the oracle check and GRPO on recorded rollouts are this trainer in three
environments.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange
from flax import struct
from jax.sharding import Mesh

from wmpo_jax.agents.policy import Policy, frozen_of, joined, trained_of
from wmpo_jax.algorithm import grpo
from wmpo_jax.algorithm.trajectory import Experience, concatenate, select
from wmpo_jax.runtime import preemption, sharding
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.mesh import (
    batch_sharding,
    fetch,
    replicate,
    spread_whole,
    transfer_guard,
)
from wmpo_jax.runtime.progress import PhaseTimer, progress
from wmpo_jax.training.fit import LoopFiles, completed
from wmpo_jax.training.state import make_sharded, spread

# (params, starts of whole groups, key) -> their episodes, group by group; one compiled program
Sampler = Callable[[Any, Any, jax.Array], Experience]
# (first, count) -> the starts of that many groups, from the `first`-th of all on
Starts = Callable[[int, int], Any]
# (iterations done, params) -> (metrics, whether to stop here). It is asked before the first
# iteration of this process and after each, and gives the same answer when it is asked again.
Watch = Callable[[int, Any], tuple[Mapping[str, float], bool]]


SOLVED = 0.95  # imagined success above which "no mixed group" means "nothing left to learn"


@dataclasses.dataclass(frozen=True)
class GRPOConfig:
    """Hyperparameters of GRPO (WMPO section 4.1; reference: examples/mimicgen/*/train_wmpo_*.sh).

    `minibatch` counts episodes, whole groups of them. `require_mixed` False goes on without an
    update where no group has both successes and failures (a smoke run, whose policy cannot act).
    `micro_chunks` decisions per episode go through the policy at once in the update (0: all); fewer
    take less memory for the same gradient.

    Raises:
      UserError: values that do not fit each other.
    """

    iterations: int
    groups: int
    group_size: int
    attempts: int
    epochs: int
    minibatch: int
    learning_rate: float
    weight_decay: float
    grad_clip: float
    clip_low: float
    clip_high: float
    temperature: float
    checkpoint_every: int
    require_mixed: bool
    micro_chunks: int = 0

    def __post_init__(self) -> None:
        if self.minibatch % self.group_size:
            raise UserError(
                f"improve.minibatch = {self.minibatch} splits groups of {self.group_size}: "
                "make it a multiple of improve.group_size."
            )

    @property
    def episodes(self) -> int:
        """Of a batch."""
        return self.groups * self.group_size

    def optimizer(self) -> Any:
        """AdamW at a constant rate from the first iteration on."""
        return optax.chain(
            optax.clip_by_global_norm(self.grad_clip),
            optax.adamw(self.learning_rate, weight_decay=self.weight_decay),
        )


class GrpoState(struct.PyTreeNode):
    """Saved whole at checkpoints. `starts` and `episodes` count what was sampled so far."""

    iteration: jax.Array
    params: Any
    opt_state: Any
    starts: jax.Array
    episodes: jax.Array


def initial_state(params: Any, config: GRPOConfig) -> GrpoState:
    """Before the first iteration, from a copy of `params`, which updates may use up."""
    params, zero = jax.tree.map(jnp.copy, params), jnp.int32(0)
    return GrpoState(zero, params, config.optimizer().init(params), zero, zero)


def optimize(
    files: LoopFiles,
    mesh: Mesh,
    params: Any,
    policy: Policy,
    sample: Sampler,
    starts: Starts,
    config: GRPOConfig,
    key: jax.Array,
    watch: Watch = lambda iteration, params: ({}, False),
) -> tuple[GrpoState, Any]:
    """`config.iterations` rounds of GRPO from `params`, resuming the newest checkpoint.

    Seconds per phase are written with the metrics of each iteration. Returns the last state, and
    the parameters of the policy (`params` with what was trained of them).

    Raises:
      UserError: no group with both successes and failures in `config.attempts` times
        `config.groups` groups, or the loss is not finite.
      Preempted: after saving.
    """
    name, checkpoints, frozen = files.name, files.checkpoints, frozen_of(params)
    make = functools.partial(initial_state, config=config)
    state = make_sharded(mesh, make, trained_of(params))
    if checkpoints.latest_step() is not None:
        state = _join(*checkpoints.restore(*_split(state)))
    update = _updater(name, mesh, policy, config, frozen)
    timer, first = PhaseTimer(), int(state.iteration)
    with (
        completed(checkpoints),
        files.metrics(first) as writer,
        progress(config.iterations, first, name) as bar,
    ):
        seen, stop = watch(first, joined(state.params, frozen))
        if seen and first == 0:
            writer.write(0, seen)
        end = first if stop else config.iterations
        for iteration in range(first + 1, end + 1):
            sample_key, update_key = jax.random.split(jax.random.fold_in(key, iteration))
            with timer("sample"):
                acting = joined(state.params, frozen)
                kept, state, metrics = _gather(
                    mesh, state, acting, sample, starts, config, sample_key
                )
            with timer("update"):
                state, losses = update(state, kept, update_key, iteration)
            with timer("monitor"):
                seen, stop = watch(iteration, joined(state.params, frozen))
            writer.write(iteration, {**metrics, **losses, **seen, **timer.take()})
            bar.headline(success=metrics["success"])
            bar.advance()
            leaving = preemption.stop_requested()
            if iteration % config.checkpoint_every == 0 or leaving or stop or iteration == end:
                checkpoints.save(iteration, *_split(state))
            if stop:
                break
            if leaving:
                raise preemption.stopped(name, iteration)
    return state, joined(state.params, frozen)


def _updater(
    name: str, mesh: Mesh, policy: Policy, config: GRPOConfig, frozen: Any
) -> Callable[..., tuple[GrpoState, dict[str, float]]]:
    """(state, what `_gather` kept, key, iteration) -> the state after the update, and metrics."""
    update = jitted_update(policy, config, mesh)

    def updated(
        state: GrpoState, kept: Any, key: jax.Array, iteration: int
    ) -> tuple[GrpoState, dict[str, float]]:
        metrics: dict[str, float] = {}
        if kept is not None:
            batch, weight_B = kept
            key = replicate(mesh, key)
            with transfer_guard():
                params, opt_state, losses = update(
                    state.params, state.opt_state, batch, weight_B, key, frozen
                )
            state = state.replace(params=params, opt_state=opt_state)
            metrics = {key: float(value) for key, value in losses.items()}
            _check_finite(name, iteration, metrics)
        return state.replace(iteration=jnp.int32(iteration)), metrics

    return updated


def _split(state: GrpoState) -> tuple[Any, GrpoState]:
    """The two items of a checkpoint: what inference reads, and the rest."""
    return state.params, state.replace(params=None)


def _join(params: Any, rest: GrpoState) -> GrpoState:
    return rest.replace(params=params)


def _check_finite(name: str, iteration: int, metrics: Mapping[str, float]) -> None:
    broken = [k for k in ("loss", "grad_norm") if not math.isfinite(metrics[k])]
    if broken:
        raise UserError(
            f"{broken[0]} of stage {name} is {metrics[broken[0]]} at iteration {iteration}: lower "
            "improve.learning_rate in the config; the newest checkpoint is from before this."
        )


def _gather(
    mesh: Mesh,
    state: GrpoState,
    params: Any,
    sample: Sampler,
    starts: Starts,
    config: GRPOConfig,
    key: jax.Array,
) -> tuple[tuple[Experience, jax.Array] | None, GrpoState, dict[str, float]]:
    """Samples until `groups` mixed groups are found, or `attempts` times as many are sampled.

    Only the outcomes come to the host. Returns `groups` x `group_size` episodes with weights
    (0 for the filling when too few groups are mixed), spread over the mesh.
    """
    found: list[Experience] = []
    success, mixed = np.zeros(0, bool), np.zeros(0, bool)
    while mixed.sum() < config.groups and len(mixed) < config.attempts * config.groups:
        first, count = int(state.starts), next_attempt(config, mixed, sharding.batch_parts(mesh))
        episodes = sample(params, starts(first, count), jax.random.fold_in(key, first))
        outcome_B = fetch(episodes.success_B)
        success = np.append(success, outcome_B)
        mixed = np.asarray(grpo.mixed_groups(jnp.asarray(success), config.group_size))
        found.append(episodes)
        state = state.replace(starts=state.starts + count, episodes=state.episodes + len(outcome_B))
    rate = float(success.mean())
    groups = np.flatnonzero(mixed)[: config.groups]
    metrics = {
        "success": rate,
        "mixed_share": float(mixed.mean()),
        "groups": float(len(groups)),
        "episodes": float(state.episodes),
    }
    if len(groups) == 0 and rate < SOLVED and config.require_mixed:
        raise UserError(
            f"No group of {config.group_size} had both successes and failures in "
            f"{len(mixed)} groups (success rate {rate:.3f}): raise "
            "policy.temperature, improve.attempts or improve.groups, or improve the base policy."
        )
    if len(groups) == 0:
        return None, state, metrics
    filled = np.resize(groups, config.groups)
    rows = (filled[:, None] * config.group_size + np.arange(config.group_size)).reshape(-1)
    weight = np.repeat(np.arange(config.groups) < len(groups), config.group_size)
    chosen = _chooser(mesh)(tuple(found), replicate(mesh, rows.astype(np.int32)))
    return (chosen, spread_whole(mesh, weight.astype(np.float32))), state, metrics


def next_attempt(config: GRPOConfig, mixed: np.ndarray, parts: int) -> int:
    """How many groups to sample next: all of them, or half when those should be enough.

    Two sizes, because each is a compiled program.

    Args:
      mixed: bool, whether each group that was sampled in this iteration is mixed.
      parts: devices over which the episodes of a batch are spread.
    """
    half, odd = divmod(config.groups, 2)
    left = config.attempts * config.groups - len(mixed)
    if odd or (half * config.group_size) % parts or not mixed.any():
        return config.groups
    missing = config.groups - mixed.sum()
    return half if missing <= half * mixed.mean() or left < config.groups else config.groups


@functools.cache
def _chooser(mesh: Mesh) -> Callable[..., Experience]:
    """Compiled (batches, rows) -> those episodes, spread over the mesh and nowhere whole."""

    def choose(found: tuple[Experience, ...], rows: jax.Array) -> Experience:
        return select(concatenate(found), rows)

    return jax.jit(choose, out_shardings=batch_sharding(mesh))


class Decisions(struct.PyTreeNode):
    """What the loss needs of B episodes with N decisions each; float32 but for frames and tokens.

    Attributes:
      frames_BNHWC: uint8 frames on which the policy decided.
      instruction_id_B: int32.
      tokens_BNKA: int32 action classes, with the log-probabilities they had when sampled.
      weight_BNKA: what a token counts (`grpo.token_weights`).
    """

    frames_BNHWC: jax.Array
    instruction_id_B: jax.Array
    tokens_BNKA: jax.Array
    log_probs_BNKA: jax.Array
    advantage_B: jax.Array
    weight_BNKA: jax.Array


def make_update(policy: Policy, config: GRPOConfig, mesh: Mesh) -> Callable[..., Any]:
    """The policy update as one function: epochs of minibatches of whole groups.

    It takes what is trained of the policy, the optimizer's state, episodes, their weights, a key,
    and what is frozen of the policy (None for nothing).
    """
    optimizer = config.optimizer()

    def step(
        carry: tuple[Any, Any], batch: Any, frozen: Any
    ) -> tuple[tuple[Any, Any], dict[str, jax.Array]]:
        params, opt_state = carry
        grads, metrics = _gradient(params, frozen, policy, _decisions(*batch), config)
        grads = sharding.pin(mesh, grads)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        metrics["grad_norm"] = optax.tree.norm(grads)
        return sharding.pin(mesh, (optax.apply_updates(params, updates), opt_state)), metrics

    def update(
        params: Any,
        opt_state: Any,
        episodes: Experience,
        weight_B: jax.Array,
        key: jax.Array,
        frozen: Any = None,
    ) -> tuple[Any, Any, Mapping[str, jax.Array]]:
        advantage_B = grpo.group_advantages(episodes.success_B, config.group_size)
        order = _minibatches(config, key)
        batch = (episodes, advantage_B, weight_B)

        def one(carry: tuple[Any, Any], rows: jax.Array) -> Any:
            chosen = spread(mesh, jax.tree.map(lambda leaf: leaf[rows], batch))
            return step(carry, chosen, frozen)

        with sharding.over(mesh):
            (params, opt_state), metrics = jax.lax.scan(one, (params, opt_state), order)
        return params, opt_state, jax.tree.map(jnp.mean, metrics)

    return update


def jitted_update(policy: Policy, config: GRPOConfig, mesh: Mesh) -> Callable[..., Any]:
    """`make_update` compiled; parameters and optimizer state are used up."""
    return jax.jit(make_update(policy, config, mesh), donate_argnums=(0, 1))


def _minibatches(config: GRPOConfig, key: jax.Array) -> jax.Array:
    """Rows of every minibatch, int32 [epochs * minibatches, episodes]; groups stay together.

    Members of a group share a minibatch, so that its advantages sum to zero there (the reference
    splits groups by accident of its data parallelism).
    """
    per_batch = min(config.minibatch // config.group_size, config.groups)
    count = config.groups // per_batch

    def epoch(key: jax.Array) -> jax.Array:
        groups = jax.random.permutation(key, config.groups)[: count * per_batch]
        rows = groups[:, None] * config.group_size + jnp.arange(config.group_size)[None]
        return rows.reshape(count, per_batch * config.group_size)

    return jax.vmap(epoch)(jax.random.split(key, config.epochs)).reshape(
        config.epochs * count, per_batch * config.group_size
    )


def _decisions(episodes: Experience, advantage_B: jax.Array, weight_B: jax.Array) -> Decisions:
    """Of a minibatch."""
    tokens_BNKA = episodes.tokens_BNKA
    count, action_dim = tokens_BNKA.shape[0], tokens_BNKA.shape[-1]
    mask_BX = grpo.token_mask(episodes.finish_step_B, tokens_BNKA[0].size, action_dim)
    mask_BX &= weight_B[:, None] > 0
    return Decisions(
        frames_BNHWC=episodes.frames_BNHWC,
        instruction_id_B=episodes.instruction_id_B,
        tokens_BNKA=tokens_BNKA,
        log_probs_BNKA=episodes.log_probs_BNKA,
        advantage_B=advantage_B,
        weight_BNKA=grpo.token_weights(mask_BX, weight_B).reshape(count, *tokens_BNKA.shape[1:]),
    )


def _gradient(
    params: Any, frozen: Any, policy: Policy, batch: Decisions, config: GRPOConfig
) -> tuple[Any, dict[str, jax.Array]]:
    """Gradient of the loss and its metrics, `config.micro_chunks` decisions per episode at once."""
    differentiate = jax.value_and_grad(_loss, has_aux=True)
    chunks = batch.tokens_BNKA.shape[1]
    size = config.micro_chunks or chunks
    if chunks % size:
        raise UserError(
            f"improve.micro_chunks = {size} does not divide the {chunks} chunks of an episode."
        )
    if size == chunks:
        (_, metrics), grads = differentiate(params, frozen, policy, batch, config)
        return grads, metrics

    def slices(leaf_BN: jax.Array) -> jax.Array:
        split = leaf_BN.reshape(leaf_BN.shape[0], chunks // size, size, *leaf_BN.shape[2:])
        return split.swapaxes(0, 1)

    parts = {
        name: slices(getattr(batch, name))
        for name in ("frames_BNHWC", "tokens_BNKA", "log_probs_BNKA", "weight_BNKA")
    }

    def one(part: dict[str, jax.Array]) -> tuple[Any, dict[str, jax.Array]]:
        (_, metrics), grads = differentiate(params, frozen, policy, batch.replace(**part), config)
        return grads, metrics

    def add(total: Any, part: dict[str, jax.Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, one(part)), None

    shapes = jax.eval_shape(one, {name: leaf[0] for name, leaf in parts.items()})
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, parts)[0]


def _loss(
    params: Any, frozen: Any, policy: Policy, batch: Decisions, config: GRPOConfig
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`grpo.policy_loss` of a minibatch; metrics are weighted means over tokens too."""
    chunks = batch.tokens_BNKA.shape[1]
    frames = rearrange(batch.frames_BNHWC, "b n h w c -> (b n) h w c")
    instruction_id = jnp.repeat(batch.instruction_id_B, chunks)
    logits = policy.logits(joined(params, frozen), frames, instruction_id)
    tokens = rearrange(batch.tokens_BNKA, "b n k a -> (b n) k a")
    log_prob, entropy = (
        values.reshape(batch.tokens_BNKA.shape)
        for values in grpo.token_log_probs(logits, tokens, config.temperature)
    )
    loss, metrics = grpo.policy_loss(
        log_prob,
        batch.log_probs_BNKA,
        batch.advantage_B[:, None, None, None],
        batch.weight_BNKA,
        config.clip_low,
        config.clip_high,
    )
    return loss, {
        "loss": loss,
        "clip_fraction": metrics.clip_fraction,
        "kl": metrics.kl,
        "entropy": (batch.weight_BNKA * entropy).sum(),
    }
