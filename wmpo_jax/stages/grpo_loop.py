"""The reinforcement loop: sample groups in a world, keep the mixed ones, update. Any `Dynamics`.

Improvement in imagination, the oracle check and GRPO on the rollouts are this loop in three worlds.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange
from flax import struct
from jax.sharding import Mesh
from ml_collections import ConfigDict

from wmpo_jax.algorithm import grpo
from wmpo_jax.algorithm.trajectory import Trajectory, concatenate, select
from wmpo_jax.runtime import preemption, sharding
from wmpo_jax.runtime.checkpoints import Checkpoints
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.mesh import fetch, spread_whole
from wmpo_jax.runtime.progress import PhaseTimer, progress
from wmpo_jax.stages import training
from wmpo_jax.stages.setting import Setting

# (params, starts, key) -> Trajectory; one compiled program
Sampler = Callable[[Any, Any, jax.Array], Trajectory]
# number of a batch -> `groups` starts, each repeated group_size times
Starts = Callable[[int], Any]


class Scorer(Protocol):
    """What the update needs of a policy family: float32 logits_BKAV of decision frames."""

    def logits_of_frames(
        self, params: Any, frames_BHWC: jax.Array, instruction_id_B: jax.Array
    ) -> jax.Array: ...


SOLVED = 0.95  # imagined success above which "no mixed group" means "nothing left to learn"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of GRPO (reference: verl/trainer/config/ppo_trainer.yaml at 09f60b7).

    `minibatch` counts episodes, whole groups of them. `require_mixed` False goes on without an
    update where no group has both successes and failures (a smoke run, whose policy cannot act).
    `micro_chunks` decisions per episode go through the policy at once in the update (0: all); fewer
    take less memory for the same gradient.
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

    @classmethod
    def from_config(cls, setting: Setting, **changes: Any) -> "Recipe":
        """`config.improve` with some values changed."""
        return cls.of(setting.config, **changes)

    @classmethod
    def of(cls, config: ConfigDict, **changes: Any) -> "Recipe":
        """As `from_config`, of the config alone."""
        section = config.improve
        names = {field.name for field in dataclasses.fields(cls)}
        values = {name: section[name] for name in names & set(section.keys())}
        recipe = cls(**{"temperature": config.policy.temperature, **values, **changes})
        if recipe.minibatch % recipe.group_size:
            raise UserError(
                f"improve.minibatch = {recipe.minibatch} splits groups of {recipe.group_size}: "
                "make it a multiple of improve.group_size."
            )
        return recipe

    def optimizer(self) -> Any:
        """AdamW at a constant rate from the first iteration on."""
        return optax.chain(
            optax.clip_by_global_norm(self.grad_clip),
            optax.adamw(self.learning_rate, weight_decay=self.weight_decay),
        )


class GrpoState(struct.PyTreeNode):
    """Saved whole at checkpoints. `batches` and `episodes` count what was sampled so far."""

    iteration: jax.Array
    params: Any
    opt_state: Any
    batches: jax.Array
    episodes: jax.Array


def initial_state(params: Any, recipe: Recipe) -> GrpoState:
    """Before the first iteration, from a copy of `params`, which updates may use up."""
    params, zero = jax.tree.map(jnp.copy, params), jnp.int32(0)
    return GrpoState(zero, params, recipe.optimizer().init(params), zero, zero)


def optimize(
    name: str,
    params: Any,
    family: Scorer,
    sample: Sampler,
    starts: Starts,
    recipe: Recipe,
    setting: Setting,
) -> tuple[GrpoState, Any]:
    """`recipe.iterations` rounds of GRPO from `params`, resuming the newest checkpoint of `name`.

    Seconds per phase are written with the metrics of each iteration. Returns the last state, and
    the parameters of the policy (`params` with what was trained of them).

    Raises:
      UserError: no group with both successes and failures in `recipe.attempts` batches.
      Preempted: after saving.
    """
    checkpoints = Checkpoints(setting.workdir.checkpoints(name))
    frozen = training.frozen_of(params)
    state = training.make_sharded(
        setting.mesh, functools.partial(initial_state, recipe=recipe), training.trained_of(params)
    )
    if checkpoints.latest_step() is not None:
        state = checkpoints.restore(state)
    update = jax.jit(make_update(family, recipe, setting.mesh), donate_argnums=(0, 1))
    timer, key, first = PhaseTimer(), setting.key(name), int(state.iteration)
    with (
        setting.metrics(name, first) as writer,
        progress(recipe.iterations, first, name) as bar,
    ):
        for iteration in range(first + 1, recipe.iterations + 1):
            sample_key, update_key = jax.random.split(jax.random.fold_in(key, iteration))
            with timer("sample"):
                policy = training.joined(state.params, frozen)
                kept, state, metrics = _gather(state, policy, sample, starts, recipe, sample_key)
            with timer("update"):
                if kept is not None:
                    batch, weight_B = spread_whole(setting.mesh, kept)
                    new_params, opt_state, losses = update(
                        state.params, state.opt_state, batch, weight_B, update_key, frozen
                    )
                    state = state.replace(params=new_params, opt_state=opt_state)
                    metrics |= {k: float(v) for k, v in losses.items()}
            state = state.replace(iteration=jnp.int32(iteration))
            writer.write(iteration, {**metrics, **timer.take()})
            bar.headline(success=metrics["success"])
            bar.advance()
            leaving = preemption.stop_requested()
            if (
                iteration % recipe.checkpoint_every == 0
                or leaving
                or iteration == recipe.iterations
            ):
                checkpoints.save(iteration, state)
            if leaving:
                raise preemption.stopped(name, iteration)
    return state, training.joined(state.params, frozen)


def load_params(setting: Setting, name: str, params: Any, recipe: Recipe) -> Any:
    """The params in the newest checkpoint of an `optimize` run; `params` may be their shapes."""
    shapes = jax.eval_shape(functools.partial(initial_state, recipe=recipe), params)
    template = sharding.abstract(setting.mesh, shapes)
    return Checkpoints(setting.workdir.checkpoints(name)).restore(template).params


def _gather(
    state: GrpoState,
    policy: Any,
    sample: Sampler,
    starts: Starts,
    recipe: Recipe,
    key: jax.Array,
) -> tuple[tuple[Trajectory, jax.Array] | None, GrpoState, dict[str, float]]:
    """Samples batches until `groups` mixed groups are found, or `attempts` is used up.

    Only the outcomes come to the host. Returns `groups` x `group_size` episodes with weights
    (0 for the filling when too few groups are mixed).
    """
    found: list[Trajectory] = []
    mixed: list[np.ndarray] = []
    success: list[np.ndarray] = []
    for _ in range(recipe.attempts):
        batch = int(state.batches)
        trajectory = sample(policy, starts(batch), jax.random.fold_in(key, batch))
        success.append(fetch(trajectory.success_B))
        mixed.append(np.asarray(grpo.mixed_groups(jnp.asarray(success[-1]), recipe.group_size)))
        found.append(trajectory)
        state = state.replace(batches=state.batches + 1, episodes=state.episodes + len(success[-1]))
        if sum(m.sum() for m in mixed) >= recipe.groups:
            break
    rate = float(np.concatenate(success).mean())
    groups = np.flatnonzero(np.concatenate(mixed))[: recipe.groups]
    metrics = {
        "success": rate,
        "mixed_share": float(np.concatenate(mixed).mean()),
        "groups": float(len(groups)),
        "episodes": float(state.episodes),
    }
    if len(groups) == 0 and rate < SOLVED and recipe.require_mixed:
        raise UserError(
            f"No group of {recipe.group_size} had both successes and failures in "
            f"{recipe.attempts} batches of {recipe.groups} (success rate {rate:.3f}): raise "
            "policy.temperature, improve.attempts or improve.groups, or improve the base policy."
        )
    if len(groups) == 0:
        return None, state, metrics
    filled = np.resize(groups, recipe.groups)
    rows = (filled[:, None] * recipe.group_size + np.arange(recipe.group_size)).reshape(-1)
    weight = np.repeat(np.arange(recipe.groups) < len(groups), recipe.group_size)
    chosen = select(concatenate(found), jnp.asarray(rows))
    return (chosen, jnp.asarray(weight, jnp.float32)), state, metrics


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


def make_update(family: Scorer, recipe: Recipe, mesh: Mesh) -> Callable[..., Any]:
    """The policy update as one function: epochs of minibatches of whole groups.

    It takes what is trained of the policy, the optimizer's state, episodes, their weights, a key,
    and what is frozen of the policy (None for nothing).
    """
    optimizer = recipe.optimizer()

    def step(
        carry: tuple[Any, Any], batch: Any, frozen: Any
    ) -> tuple[tuple[Any, Any], dict[str, jax.Array]]:
        params, opt_state = carry
        grads, metrics = _gradient(params, frozen, family, _decisions(*batch), recipe)
        grads = sharding.pin(mesh, grads)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        metrics["grad_norm"] = optax.tree.norm(grads)
        return sharding.pin(mesh, (optax.apply_updates(params, updates), opt_state)), metrics

    def update(
        params: Any,
        opt_state: Any,
        trajectory: Trajectory,
        weight_B: jax.Array,
        key: jax.Array,
        frozen: Any = None,
    ) -> tuple[Any, Any, Mapping[str, jax.Array]]:
        advantage_B = grpo.group_advantages(trajectory.success_B, recipe.group_size)
        order = _minibatches(recipe, key)
        batch = (
            trajectory.replace(frames_BTHWC=trajectory.decision_frames_BNHWC),
            advantage_B,
            weight_B,
        )

        def one(carry: tuple[Any, Any], rows: jax.Array) -> Any:
            chosen = training.spread(mesh, jax.tree.map(lambda leaf: leaf[rows], batch))
            return step(carry, chosen, frozen)

        with sharding.over(mesh):
            (params, opt_state), metrics = jax.lax.scan(one, (params, opt_state), order)
        return params, opt_state, jax.tree.map(jnp.mean, metrics)

    return update


def _minibatches(recipe: Recipe, key: jax.Array) -> jax.Array:
    """Rows of every minibatch, int32 [epochs * minibatches, episodes]; groups stay together.

    Members of a group share a minibatch, so that its advantages sum to zero there (the reference
    splits groups by accident of its data parallelism).
    """
    per_batch = min(recipe.minibatch // recipe.group_size, recipe.groups)
    count = recipe.groups // per_batch

    def epoch(key: jax.Array) -> jax.Array:
        groups = jax.random.permutation(key, recipe.groups)[: count * per_batch]
        rows = groups[:, None] * recipe.group_size + jnp.arange(recipe.group_size)
        return rows.reshape(count, per_batch * recipe.group_size)

    return jax.vmap(epoch)(jax.random.split(key, recipe.epochs)).reshape(
        recipe.epochs * count, per_batch * recipe.group_size
    )


def _decisions(episodes: Trajectory, advantage_B: jax.Array, weight_B: jax.Array) -> Decisions:
    """Of a minibatch; the frames of `episodes` are the decision frames alone."""
    tokens_BNKA = episodes.tokens_BNKA
    count, action_dim = tokens_BNKA.shape[0], tokens_BNKA.shape[-1]
    mask_BX = grpo.token_mask(episodes.finish_step_B, tokens_BNKA[0].size, action_dim)
    mask_BX &= weight_B[:, None] > 0
    return Decisions(
        frames_BNHWC=episodes.frames_BTHWC,
        instruction_id_B=episodes.instruction_id_B,
        tokens_BNKA=tokens_BNKA,
        log_probs_BNKA=episodes.log_probs_BNKA,
        advantage_B=advantage_B,
        weight_BNKA=grpo.token_weights(mask_BX, weight_B).reshape(count, *tokens_BNKA.shape[1:]),
    )


def _gradient(
    params: Any, frozen: Any, family: Scorer, batch: Decisions, recipe: Recipe
) -> tuple[Any, dict[str, jax.Array]]:
    """Gradient of the loss and its metrics, `recipe.micro_chunks` decisions per episode at once."""
    differentiate = jax.value_and_grad(_loss, has_aux=True)
    chunks = batch.tokens_BNKA.shape[1]
    size = recipe.micro_chunks or chunks
    if chunks % size:
        raise UserError(
            f"improve.micro_chunks = {size} does not divide the {chunks} chunks of an episode."
        )
    if size == chunks:
        (_, metrics), grads = differentiate(params, frozen, family, batch, recipe)
        return grads, metrics

    def slices(leaf_BN: jax.Array) -> jax.Array:
        split = leaf_BN.reshape(leaf_BN.shape[0], chunks // size, size, *leaf_BN.shape[2:])
        return split.swapaxes(0, 1)

    parts = {
        name: slices(getattr(batch, name))
        for name in ("frames_BNHWC", "tokens_BNKA", "log_probs_BNKA", "weight_BNKA")
    }

    def one(part: dict[str, jax.Array]) -> tuple[Any, dict[str, jax.Array]]:
        (_, metrics), grads = differentiate(params, frozen, family, batch.replace(**part), recipe)
        return grads, metrics

    def add(total: Any, part: dict[str, jax.Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, one(part)), None

    shapes = jax.eval_shape(one, {name: leaf[0] for name, leaf in parts.items()})
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, parts)[0]


def _loss(
    params: Any, frozen: Any, family: Scorer, batch: Decisions, recipe: Recipe
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Clipped policy-gradient loss: the mean over episodes of the mean over their tokens.

    All metrics are such means too, as sums of weighted tokens.
    """
    chunks = batch.tokens_BNKA.shape[1]
    frames = rearrange(batch.frames_BNHWC, "b n h w c -> (b n) h w c")
    policy = training.joined(params, frozen)
    logits = family.logits_of_frames(policy, frames, jnp.repeat(batch.instruction_id_B, chunks))
    tokens = rearrange(batch.tokens_BNKA, "b n k a -> (b n) k a")
    log_prob, entropy = (
        values.reshape(batch.tokens_BNKA.shape)
        for values in grpo.token_log_probs(logits, tokens, recipe.temperature)
    )
    advantage = batch.advantage_B[:, None, None, None]
    losses, clipped = grpo.clipped_objective(
        log_prob, batch.log_probs_BNKA, advantage, recipe.clip_low, recipe.clip_high
    )

    def mean(values_BNKA: jax.Array) -> jax.Array:
        return (batch.weight_BNKA * values_BNKA).sum()

    loss = mean(losses)
    return loss, {
        "loss": loss,
        "clip_fraction": mean(clipped.astype(jnp.float32)),
        "kl": mean(batch.log_probs_BNKA - log_prob),
        "entropy": mean(entropy),
    }
