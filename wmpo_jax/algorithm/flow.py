"""Rectified flow: how latent frames are noised, what the network learns, how frames are sampled.

Time runs from 0 (clean) to 1000 (pure noise); u = t / 1000. A noisy frame is
x_t = (1 - u) x0 + u noise and the velocity points to the data, v = x0 - noise = (x0 - x_t) / u.
Frames are (B, T, H, W, C) latents of about unit variance, t is (B,), everything float32
(WMPO section 3.1; reference: opensora/schedulers/rf/__init__.py and rectified_flow.py).

A network's output may have one of two meanings (`Prediction`):

- "velocity": its output is v, as in the reference.
- "residual": its output is x0 minus the newest history frame. The squared error of x0 then is the
  loss, without weights, and one Euler step from the start returns the estimate of x0 itself. The
  path begins at the newest frame with some noise on it (`residual_start`) instead of pure noise.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

MAX_TIMESTEP = 1000.0
HISTORY_TIMESTEP = 15.0  # noise level of condition frames in the reference's training
REFERENCE_PIXELS = 512**2
# The reference multiplies by the root of this for every video, however many frames it has.
VIDEO_FRAMES = 4

# Standard deviation of the starts of residual paths around the newest frame.
RESIDUAL_SPREAD = 0.5

Prediction = Literal["velocity", "residual"]


def shift_timesteps(t: jax.Array, ratio: float) -> jax.Array:
    """u -> r u / (1 + (r - 1) u) on t = 1000 u; r > 1 moves times toward noise, 1 keeps them."""
    u = t / MAX_TIMESTEP
    return MAX_TIMESTEP * ratio * u / (1 + (ratio - 1) * u)


def transform_ratio(height_px: float, width_px: float, frames: int, scale: float = 1.0) -> float:
    """The reference's shift: scale * sqrt(pixels / 512^2) * (2 for a video, 1 for an image).

    At 256 x 256 pixels and more than one frame this is 1: nothing is shifted.
    """
    video = 1.0 if frames == 1 else VIDEO_FRAMES**0.5
    return scale * (height_px * width_px / REFERENCE_PIXELS) ** 0.5 * video


def sample_timesteps(key: jax.Array, batch: int, ratio: float = 1.0) -> jax.Array:
    """Training times (B,): 1000 sigmoid(normal), then shifted by `ratio` toward noise."""
    return shift_timesteps(MAX_TIMESTEP * jax.nn.sigmoid(jax.random.normal(key, (batch,))), ratio)


def euler_timesteps(num_steps: int, ratio: float = 1.0) -> jax.Array:
    """The N decreasing times at which the network is asked: 1000 (1 - i / N), then shifted."""
    t = MAX_TIMESTEP * (1 - jnp.arange(num_steps, dtype=jnp.float32) / num_steps)
    return shift_timesteps(t, ratio)


def add_noise(x0: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
    """(1 - u) x0 + u noise. `t` has leading axes of `x0`: (B,), or (B, T) for a time per frame."""
    u = _like(t, x0) / MAX_TIMESTEP
    return (1 - u) * x0 + u * noise


def residual_start(
    noise_BKHWC: jax.Array, newest_BHWC: jax.Array, spread: float = RESIDUAL_SPREAD
) -> jax.Array:
    """Where the paths of a chunk of residual predictions begin, from unit noise.

    Args:
      spread: standard deviation around the newest frame. 0 makes one step a plain regression.
    """
    return newest_BHWC[:, None] + spread * noise_BKHWC


def velocity(
    output: jax.Array,
    x_t: jax.Array,
    t: jax.Array,
    newest_BHWC: jax.Array,
    prediction: Prediction,
) -> jax.Array:
    """The velocity that a network output means: v = output, or v = (x0_hat - x_t) / u."""
    if prediction == "velocity":
        return output
    x0_hat = newest_BHWC[:, None] + output
    return (x0_hat - x_t) / (_like(t, x_t) / MAX_TIMESTEP)


def euler_sample(
    velocity_fn: Callable[[jax.Array, jax.Array], jax.Array],
    start_BKHWC: jax.Array,
    num_steps: int,
    ratio: float = 1.0,
) -> jax.Array:
    """Integrates dz = v du from noise to data: z += v(z, t_i) (t_i - t_{i+1}) / 1000, t_N = 0.

    `velocity_fn(z, t_1)` returns the velocity of all frames of `start_BKHWC`, the chunk that is
    sampled; the history is part of its closure. The time is one for the whole batch, so that what
    the network makes of it is computed once. No classifier-free guidance.
    """
    times = euler_timesteps(num_steps, ratio)
    steps = -jnp.diff(times, append=0.0) / MAX_TIMESTEP

    def step(z: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        t, du = now
        return z + du * velocity_fn(z, t[None]), None

    return jax.lax.scan(step, start_BKHWC, (times, steps))[0]


class Example(NamedTuple):
    """A window as the network is trained on it.

    Attributes:
      noisy_BTHWC: the network's input.
      target_BTHWC: what its output should be, on frames with mask True.
    """

    noisy_BTHWC: jax.Array
    target_BTHWC: jax.Array


def training_example(
    x0_BTHWC: jax.Array,
    noise_BTHWC: jax.Array,
    t_B: jax.Array,
    mask_BT: jax.Array,
    history_t: float = HISTORY_TIMESTEP,
    prediction: Prediction = "velocity",
    spread: float = RESIDUAL_SPREAD,
) -> Example:
    """Noises a window: frames with mask True to `t_B`, the history before them to `history_t`.

    Paths of residual predictions begin around the last frame before the first one with mask True,
    as the network sees it; there has to be one.
    """
    history_BTHWC = add_noise(x0_BTHWC, noise_BTHWC, jnp.full(len(t_B), history_t))
    if prediction == "velocity":
        start_BTHWC = noise_BTHWC
        target_BTHWC = x0_BTHWC - noise_BTHWC
    else:
        newest_B = jnp.argmax(mask_BT, axis=1) - 1
        newest_BHWC = history_BTHWC[jnp.arange(len(newest_B)), newest_B]
        start_BTHWC = residual_start(noise_BTHWC, newest_BHWC, spread)
        target_BTHWC = x0_BTHWC - newest_BHWC[:, None]
    noisy_BTHWC = add_noise(x0_BTHWC, start_BTHWC, t_B)
    return Example(jnp.where(_like(mask_BT, x0_BTHWC), noisy_BTHWC, history_BTHWC), target_BTHWC)


def flow_loss(output_BTHWC: jax.Array, target_BTHWC: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """Mean squared error of the output over frames with mask True, per sample, float32 (B,).

    No frame or pixel weighs more because of its outcome: such weights raise the predicted
    probability of rare outcomes (an optimistic world model, which GRPO then exploits).
    """
    error_BT = jnp.mean(jnp.square(output_BTHWC - target_BTHWC), axis=(2, 3, 4))
    return jnp.sum(error_BT * mask_BT, axis=1) / jnp.sum(mask_BT, axis=1)


def _like(t: jax.Array, x: jax.Array) -> jax.Array:
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))
