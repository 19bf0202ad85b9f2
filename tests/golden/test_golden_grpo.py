"""Filter, advantages, log-probs and loss against the original code (`grpo_*.safetensors`)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden.loader import golden_files, load
from wmpo_jax.algorithm import grpo

GROUP = 8


def assert_close(found, expected, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


@pytest.fixture(params=golden_files("grpo"), ids=lambda path: path.stem)
def golden(request):
    return load(request.param)


def per_token(advantage_B, finish_step_B, responses):
    mask_BX = grpo.token_mask(finish_step_B, responses[0].size, responses.shape[-1] // 8)
    return np.where(mask_BX, np.asarray(advantage_B)[:, None], 0.0)


def test_golden_group_filter_keeps_the_same_rows(golden):
    tensors, _ = golden
    kept_G = np.asarray(grpo.mixed_groups(jnp.asarray(tensors["in.complete"]), GROUP))
    rows = np.flatnonzero(np.repeat(kept_G, GROUP))
    np.testing.assert_array_equal(rows, tensors["out.filter.kept_rows"])
    truncated = tensors["out.filter.kept_rows_after_truncation_to_batch"]
    np.testing.assert_array_equal(rows[: len(truncated)], truncated)
    counts = [k for k in range(GROUP + 1) if grpo.mixed_groups(jnp.arange(GROUP) < k, GROUP)[0]]
    np.testing.assert_array_equal(counts, tensors["out.filter_boundary.kept_success_counts"])


def test_golden_advantages(golden):
    tensors, _ = golden
    success_B, finish_B = tensors["in.complete"], tensors["in.finish_step"]
    advantage_B = grpo.group_advantages(jnp.asarray(success_B), GROUP)
    assert_close(advantage_B, tensors["out.all_groups.advantage_per_row"])
    expected = tensors["out.all_groups.advantages"]
    assert_close(per_token(advantage_B, finish_B, tensors["in.responses"]), expected)
    kept = tensors["out.filter.kept_rows_after_truncation_to_batch"]
    kept_B = grpo.group_advantages(jnp.asarray(success_B[kept]), GROUP)
    assert_close(kept_B, tensors["out.kept_groups.advantage_per_row"])


def test_golden_group_of_one_beside_a_pair(golden):
    expected = golden[0]["out.singleton_group.advantage_first_token"]
    alone = grpo.group_advantages(jnp.ones(1, bool), 1)
    pair = grpo.group_advantages(jnp.asarray(expected[1:] > 0), 2)
    assert_close(np.concatenate([alone, pair]), expected)


def test_golden_log_probs_and_entropy(golden):
    tensors, _ = golden
    log_prob, entropy = grpo.token_log_probs(
        jnp.asarray(tensors["in.logits"]), jnp.asarray(tensors["in.labels"]), 1.6
    )
    assert_close(log_prob, tensors["out.logprob_t1.6"], rtol=1e-5, atol=1e-5)
    assert_close(entropy, tensors["out.entropy_t1.6"], rtol=1e-5, atol=1e-5)


def test_golden_clip_probe(golden):
    tensors, _ = golden
    log_ratio = jnp.log(jnp.asarray(tensors["in.clip_probe.ratio"]))
    for name, advantage in (("pos", 1.0), ("neg", -1.0)):

        def loss(value, advantage=advantage):
            return grpo.clipped_objective(
                value, jnp.float32(0.0), jnp.float32(advantage), 0.2, 0.28
            )[0]

        assert_close(jax.vmap(loss)(log_ratio), tensors[f"out.clip_probe.{name}.loss"])
        gradient = jax.vmap(jax.grad(loss))(log_ratio)
        away = np.abs(np.exp(log_ratio) - 0.8) > 1e-4
        away &= np.abs(np.exp(log_ratio) - 1.28) > 1e-4
        assert_close(gradient[away], tensors[f"out.clip_probe.{name}.grad"][away])


def test_golden_update_loss_and_gradient(golden):
    tensors, _ = golden
    old, advantage, mask = (
        jnp.asarray(tensors[f"in.loss.{name}"]) for name in ("old_log_prob", "advantages", "mask")
    )

    def loss(log_prob_BX):
        return grpo.policy_loss(log_prob_BX, old, advantage, mask, 0.2, 0.28)

    log_prob = jnp.asarray(tensors["in.loss.log_prob"])
    (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(log_prob)
    assert_close(value, tensors["out.loss.update_loss"])
    assert_close(gradient, tensors["out.loss.update_grad_log_prob"])
    per_trajectory = tensors["out.loss.per_trajectory_pgloss_clipfrac_kl"].mean(axis=0)
    assert_close([value, metrics.clip_fraction, metrics.kl], per_trajectory, rtol=1e-5, atol=1e-6)


def test_golden_batch_token_mean(golden):
    tensors, _ = golden
    old, advantage, mask = (
        jnp.asarray(tensors[f"in.loss.{name}"]) for name in ("old_log_prob", "advantages", "mask")
    )

    def loss(log_prob_BX):
        values, clipped = grpo.clipped_objective(log_prob_BX, old, advantage, 0.2, 0.28)
        return grpo.masked_mean(values, mask), grpo.masked_mean(clipped * 1.0, mask)

    log_prob = jnp.asarray(tensors["in.loss.log_prob"])
    (value, clip_fraction), gradient = jax.value_and_grad(loss, has_aux=True)(log_prob)
    assert_close(value, tensors["out.loss.batch_pg_loss"])
    assert_close(clip_fraction, tensors["out.loss.batch_clipfrac"])
    assert_close(gradient, tensors["out.loss.batch_grad_log_prob"])


def test_golden_masked_mean(golden):
    tensors, _ = golden
    values, mask = tensors["in.masked_mean.values"], tensors["in.masked_mean.mask"]
    got = grpo.masked_mean(jnp.asarray(values), jnp.asarray(mask))
    assert_close(got, tensors["out.masked_mean"])
    empty = grpo.masked_mean(jnp.asarray(values), jnp.zeros_like(mask))
    assert_close(empty, tensors["out.masked_mean_all_false"])
