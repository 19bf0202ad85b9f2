"""Rectified flow against closed forms: transform, noising, Euler, both predictions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wmpo_jax.algorithm import flow as rf

SHAPE = (3, 4, 2, 2, 5)


def normals(*seeds: int) -> list[jax.Array]:
    return [jax.random.normal(jax.random.key(seed), SHAPE) for seed in seeds]


def test_transform_is_the_identity_for_video_at_256():
    assert rf.transform_ratio(256, 256, 12) == 1.0
    assert rf.transform_ratio(512, 512, 1) == 1.0
    t = jnp.linspace(0.0, 1000.0, 9)
    np.testing.assert_allclose(rf.shift_timesteps(t, 1.0), t, rtol=1e-6)
    assert rf.shift_timesteps(jnp.array(500.0), 3.0) == pytest.approx(750.0)


def test_training_times_are_logit_normal_then_shifted():
    plain = rf.sample_timesteps(jax.random.key(0), 4000)
    logits = jax.scipy.special.logit(plain / 1000.0)
    assert abs(float(logits.mean())) < 0.06 and abs(float(logits.std()) - 1) < 0.05
    shifted = rf.sample_timesteps(jax.random.key(0), 4000, 3.0)
    np.testing.assert_allclose(shifted, rf.shift_timesteps(plain, 3.0), rtol=1e-6)
    assert float(shifted.mean()) > float(plain.mean()) + 150


def test_condition_frames_get_the_history_level():
    x0, noise = normals(0, 1)
    mask_BT = jnp.array([[False, True, True, True]] * 3)
    t_B = jnp.array([0.0, 400.0, 1000.0])
    noisy, target = rf.training_example(x0, noise, t_B, mask_BT, 80.0)
    np.testing.assert_allclose(noisy[:, 0], 0.92 * x0[:, 0] + 0.08 * noise[:, 0], atol=1e-6)
    np.testing.assert_allclose(noisy[0, 1:], x0[0, 1:], atol=1e-6)
    np.testing.assert_allclose(noisy[1, 1:], 0.6 * x0[1, 1:] + 0.4 * noise[1, 1:], atol=1e-6)
    np.testing.assert_allclose(noisy[2, 1:], noise[2, 1:], atol=1e-6)
    np.testing.assert_allclose(target, x0 - noise, atol=1e-6)


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_residual_examples_begin_around_the_newest_frame_as_the_network_sees_it(spread):
    x0, noise = normals(0, 1)
    mask_BT = jnp.arange(4)[None] > jnp.arange(3)[:, None]
    t_B = jnp.full(3, 1000.0)
    noisy, target = rf.training_example(x0, noise, t_B, mask_BT, 80.0, "residual", spread)
    for b, newest in enumerate((0, 1, 2)):
        seen = 0.92 * x0[b, newest] + 0.08 * noise[b, newest]
        np.testing.assert_allclose(noisy[b, newest], seen, atol=1e-6)
        expected = seen + spread * noise[b, newest + 1 :]
        np.testing.assert_allclose(noisy[b, newest + 1 :], expected, atol=1e-5)
        np.testing.assert_allclose(target[b], x0[b] - seen, atol=1e-6)


@pytest.mark.parametrize("ratio", [1.0, 3.0])
@pytest.mark.parametrize("num_steps", [1, 7])
def test_euler_follows_a_straight_path_exactly(num_steps, ratio):
    x0, noise = normals(0, 1)
    out = rf.euler_sample(lambda z, t: x0 - noise, noise, num_steps, ratio)
    np.testing.assert_allclose(out, x0, atol=1e-5)


def test_euler_matches_the_compound_interest_of_a_linear_field():
    (noise,) = normals(1)
    out = rf.euler_sample(lambda z, t: -2.0 * z, noise, 10)
    np.testing.assert_allclose(out, noise * (1 - 2.0 / 10) ** 10, atol=1e-5)


@pytest.mark.parametrize("prediction", ["velocity", "residual"])
def test_a_perfect_network_has_the_true_velocity(prediction):
    x0, noise, history = normals(0, 1, 2)
    newest, t_B = history[:, -1], jnp.array([50.0, 500.0, 1000.0])
    perfect = x0 - noise if prediction == "velocity" else x0 - newest[:, None]
    x_t = rf.add_noise(x0, noise, t_B)
    v = rf.velocity(perfect, x_t, t_B, newest, prediction)
    np.testing.assert_allclose(v, x0 - noise, atol=1e-4)


def test_residual_is_x0_after_one_euler_step():
    noise, output, history = normals(0, 1, 2)
    newest = history[:, -1]
    out = rf.euler_sample(lambda z, t: rf.velocity(output, z, t, newest, "residual"), noise, 1)
    np.testing.assert_allclose(out, newest[:, None] + output, atol=1e-6)


def test_a_residual_path_leads_from_around_the_newest_frame_to_the_data():
    x0, noise, history = normals(0, 1, 2)
    newest = history[:, -1]
    start = rf.residual_start(noise, newest, 0.5)
    offset = start - newest[:, None]
    np.testing.assert_allclose(offset, 0.5 * noise, atol=1e-6)
    perfect = x0 - newest[:, None]
    out = rf.euler_sample(lambda z, t: rf.velocity(perfect, z, t, newest, "residual"), start, 5)
    np.testing.assert_allclose(out, x0, atol=1e-5)


def test_flow_loss_averages_over_noisy_frames_only():
    output, x0, noise = normals(0, 1, 2)
    mask_BT = jnp.array([[False, False, True, True], [True] * 4, [False, True, False, False]])
    got = rf.flow_loss(output, x0 - noise, mask_BT)
    for b in range(3):
        rows = np.asarray(mask_BT[b])
        expected = np.mean(np.square((output - x0 + noise)[b][rows]))
        np.testing.assert_allclose(got[b], expected, rtol=1e-5)
