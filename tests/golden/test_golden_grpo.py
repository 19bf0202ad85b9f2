"""Filter, advantages, log-probs and loss against the original code (`grpo_*.safetensors`)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden.loader import golden_files, load
from wmpo_jax.algorithm import grpo


def assert_close(found, expected, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


@pytest.fixture(params=golden_files("grpo"), ids=lambda path: path.stem)
def golden(request):
    return load(request.param)


def executed(golden, rows):
    """bool_BX: the tokens of `rows` that were executed."""
    tensors, metadata = golden
    finish_B = jnp.asarray(tensors["in.finish_step"][rows])
    num_tokens = tensors["in.responses"][0].size
    return np.asarray(grpo.token_mask(finish_B, num_tokens, metadata["action_token_len"]))


def clips(metadata):
    return metadata["clip_ratio_low"], metadata["clip_ratio_high"]


def test_golden_group_filter_keeps_the_same_rows(golden):
    tensors, metadata = golden
    size = metadata["n_samples"]
    bounds = metadata["accuracy_lower_bound"], metadata["accuracy_upper_bound"]
    success_B = jnp.asarray(tensors["in.complete"])
    np.testing.assert_array_equal(success_B, tensors["out.verify.acc"])
    kept_G = np.asarray(grpo.mixed_groups(success_B, size, *bounds))
    rows = np.flatnonzero(np.repeat(kept_G, size))
    np.testing.assert_array_equal(rows, tensors["out.filter.kept_rows"])
    truncated = tensors["out.filter.kept_rows_after_truncation_to_batch"]
    assert len(truncated) == size * min(metadata["batch_groups_after_truncation"], kept_G.sum())
    np.testing.assert_array_equal(rows[: len(truncated)], truncated)
    counts = [
        k for k in range(size + 1) if grpo.mixed_groups(jnp.arange(size) < k, size, *bounds)[0]
    ]
    np.testing.assert_array_equal(counts, tensors["out.filter_boundary.kept_success_counts"])


@pytest.mark.parametrize("groups", ["all_groups", "kept_groups"])
def test_golden_rewards_and_advantages(golden, groups):
    tensors, metadata = golden
    rows = np.arange(len(tensors["in.complete"]))
    if groups == "kept_groups":
        rows = tensors["out.filter.kept_rows_after_truncation_to_batch"]
    success_B, executed_BX = tensors["in.complete"][rows], executed(golden, rows)
    assert_close(grpo.REWARD * success_B, tensors[f"out.{groups}.reward_sum"])
    last_B = np.where(success_B, executed_BX.sum(axis=1) - 1, -1)
    np.testing.assert_array_equal(last_B, tensors[f"out.{groups}.reward_position"])

    advantage_B = grpo.group_advantages(jnp.asarray(success_B), metadata["n_samples"])
    assert_close(advantage_B, tensors[f"out.{groups}.advantage_per_row"])
    advantage_BX = np.where(executed_BX, np.asarray(advantage_B)[:, None], 0.0)
    assert_close(advantage_BX, tensors[f"out.{groups}.advantages"])


def test_golden_group_of_one_beside_a_pair(golden):
    expected = golden[0]["out.singleton_group.advantage_first_token"]
    alone = grpo.group_advantages(jnp.asarray(expected[:1] > 0), 1)
    pair = grpo.group_advantages(jnp.asarray(expected[1:] > 0), 2)
    assert_close(np.concatenate([alone, pair]), expected)


def test_golden_log_probs_and_entropy(golden):
    tensors, _ = golden
    logits, labels = jnp.asarray(tensors["in.logits"]), jnp.asarray(tensors["in.labels"])
    suffixes = [name.removeprefix("out.logprob_t") for name in tensors if "out.logprob_t" in name]
    assert suffixes
    for suffix in suffixes:
        log_prob, entropy = grpo.token_log_probs(logits, labels, float(suffix))
        assert_close(log_prob, tensors[f"out.logprob_t{suffix}"], atol=1e-5)
        assert_close(entropy, tensors[f"out.entropy_t{suffix}"], atol=1e-5)


def test_golden_clip_probe(golden):
    tensors, metadata = golden
    low, high = clips(metadata)
    log_ratio = jnp.log(jnp.asarray(tensors["in.clip_probe.ratio"]))
    for name, advantage in (("pos", 1.0), ("neg", -1.0)):

        def loss(value, advantage=advantage):
            return grpo.clipped_objective(
                value, jnp.float32(0.0), jnp.float32(advantage), low, high
            )[0]

        assert_close(jax.vmap(loss)(log_ratio), tensors[f"out.clip_probe.{name}.loss"])
        gradient = jax.vmap(jax.grad(loss))(log_ratio)
        # On a bound itself the gradient is one side's or the other's.
        away = np.abs(np.exp(log_ratio) - (1 - low)) > 1e-4
        away &= np.abs(np.exp(log_ratio) - (1 + high)) > 1e-4
        assert_close(gradient[away], tensors[f"out.clip_probe.{name}.grad"][away])


def loss_inputs(golden):
    return (
        jnp.asarray(golden[0][f"in.loss.{name}"])
        for name in ("log_prob", "old_log_prob", "advantages", "mask")
    )


def test_golden_update_loss_and_gradient(golden):
    tensors, metadata = golden
    log_prob, old, advantage, mask = loss_inputs(golden)
    weight = grpo.token_weights(mask > 0, jnp.ones(len(mask)))

    def loss(log_prob_BX):
        return grpo.policy_loss(log_prob_BX, old, advantage, weight, *clips(metadata))

    (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(log_prob)
    assert_close(value, tensors["out.loss.update_loss"])
    assert_close(gradient, tensors["out.loss.update_grad_log_prob"])
    per_trajectory = tensors["out.loss.per_trajectory_pgloss_clipfrac_kl"]
    assert_close([value, metrics.clip_fraction, metrics.kl], per_trajectory.mean(axis=0))
    for i, expected in enumerate(per_trajectory):
        alone = grpo.token_weights(mask > 0, jnp.arange(len(mask)) == i)
        value, metrics = grpo.policy_loss(log_prob, old, advantage, alone, *clips(metadata))
        assert_close([value, metrics.clip_fraction, metrics.kl], expected)


def test_golden_batch_token_mean(golden):
    """Weights that are equal for all tokens give the mean over the batch's tokens."""
    tensors, metadata = golden
    log_prob, old, advantage, mask = loss_inputs(golden)
    weight = mask / mask.sum()

    def loss(log_prob_BX):
        return grpo.policy_loss(log_prob_BX, old, advantage, weight, *clips(metadata))

    (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(log_prob)
    assert_close(metrics.kl, tensors["out.loss.batch_ppo_kl"])
    assert_close(value, tensors["out.loss.batch_pg_loss"])
    assert_close(metrics.clip_fraction, tensors["out.loss.batch_clipfrac"])
    assert_close(gradient, tensors["out.loss.batch_grad_log_prob"])


def test_golden_masked_mean(golden):
    """The KL of `policy_loss` is such a mean; episodes without a token count as 0."""
    tensors, metadata = golden
    values = jnp.asarray(tensors["in.masked_mean.values"])
    mask = jnp.asarray(tensors["in.masked_mean.mask"]) > 0

    def mean(mask):
        weight = mask / jnp.maximum(mask.sum(), 1)
        zeros = jnp.zeros_like(values)
        return grpo.policy_loss(zeros, values, zeros, weight, *clips(metadata))[1].kl

    assert_close(mean(mask), tensors["out.masked_mean"])
    assert_close(mean(jnp.zeros_like(mask)), tensors["out.masked_mean_all_false"])
