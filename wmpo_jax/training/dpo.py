"""DPO on recorded episodes: epochs of minibatches of pairs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from flax import struct
from jax.sharding import Mesh

from wmpo_jax.agents.policy import Policy, joined
from wmpo_jax.algorithm import dpo, grpo
from wmpo_jax.algorithm.trajectory import Trajectory, select
from wmpo_jax.runtime import sharding

GRAD_CLIP = 1.0  # norm


@dataclass(frozen=True)
class DPOConfig:
    """Hyperparameters; `minibatch` counts pairs, `temperature` is the one of the recording."""

    beta: float
    epochs: int
    minibatch: int
    learning_rate: float
    temperature: float

    def optimizer(self) -> Any:
        """AdamW at a constant rate, without decay, as GRPO's."""
        clip = optax.clip_by_global_norm(GRAD_CLIP)
        return optax.chain(clip, optax.adamw(self.learning_rate, weight_decay=0.0))


class Pairs(struct.PyTreeNode):
    """Rows of the winner and the loser of every pair, int32 [P]."""

    winner_P: jax.Array
    loser_P: jax.Array


def make_training(policy: Policy, config: DPOConfig, mesh: Mesh) -> Callable[..., Any]:
    """All of the training as one function: (trained params, frozen, episodes, pairs, key) ->
    (trained params, mean metrics)."""
    optimizer = config.optimizer()

    def loss(params: Any, frozen: Any, episodes: Trajectory) -> tuple[jax.Array, dict[str, Any]]:
        """`episodes`: winners first, as many losers behind."""
        log_prob_B, recorded_B = _log_probs(policy, joined(params, frozen), episodes, config)
        (winner, loser), (r_winner, r_loser) = (jnp.split(x, 2) for x in (log_prob_B, recorded_B))
        value, share = dpo.preference_loss(winner, loser, r_winner, r_loser, config.beta)
        return value, {"loss": value, "preferred": share}

    def train(params: Any, frozen: Any, episodes: Trajectory, pairs: Pairs, key: jax.Array) -> Any:
        def one(carry: tuple[Any, Any], rows: jax.Array) -> Any:
            params, opt_state = carry
            chosen = jnp.concatenate([pairs.winner_P[rows], pairs.loser_P[rows]])
            grads, metrics = jax.grad(loss, has_aux=True)(params, frozen, select(episodes, chosen))
            updates, opt_state = optimizer.update(sharding.pin(mesh, grads), opt_state, params)
            return sharding.pin(mesh, (optax.apply_updates(params, updates), opt_state)), metrics

        order = _minibatches(len(pairs.winner_P), config, key)
        with sharding.over(mesh):
            (params, _), metrics = jax.lax.scan(one, (params, optimizer.init(params)), order)
        return params, jax.tree.map(jnp.mean, metrics)

    return jax.jit(train)


def _log_probs(
    policy: Policy, params: Any, episodes: Trajectory, config: DPOConfig
) -> tuple[jax.Array, jax.Array]:
    """Of whole episodes, float32 [B]: under the policy, and as recorded."""
    tokens_BNKA, chunks = episodes.tokens_BNKA, episodes.tokens_BNKA.shape[1]
    logits = policy.logits(
        params,
        rearrange(episodes.decision_frames_BNHWC, "b n h w c -> (b n) h w c"),
        jnp.repeat(episodes.instruction_id_B, chunks),
    )
    tokens = rearrange(tokens_BNKA, "b n k a -> (b n) k a")
    log_prob, _ = grpo.token_log_probs(logits, tokens, config.temperature)
    count, action_dim = tokens_BNKA.shape[0], tokens_BNKA.shape[-1]
    mask_BX = grpo.token_mask(episodes.finish_step_B, tokens_BNKA[0].size, action_dim)
    return (
        dpo.episode_log_prob(log_prob.reshape(count, -1), mask_BX),
        dpo.episode_log_prob(episodes.log_probs_BNKA.reshape(count, -1), mask_BX),
    )


def _minibatches(count: int, config: DPOConfig, key: jax.Array) -> jax.Array:
    """Pairs of every minibatch, int32 [epochs * minibatches, pairs]; a rest is left out."""
    size = min(config.minibatch, count)

    def epoch(key: jax.Array) -> jax.Array:
        return jax.random.permutation(key, count)[: count // size * size].reshape(-1, size)

    return jax.vmap(epoch)(jax.random.split(key, config.epochs)).reshape(-1, size)
