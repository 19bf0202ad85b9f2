"""Which kernel attention takes, and that it is attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wmpo_jax.models.attention import attention, capability, fits_cudnn

HOPPER, AMPERE, TURING = (9, 0), (8, 0), (7, 5)


@pytest.mark.parametrize(
    ("dtype", "head_dim", "masked_lengths", "device", "fits"),
    [
        (jnp.bfloat16, 72, (), HOPPER, True),
        (jnp.float16, 64, (), AMPERE, True),
        (jnp.bfloat16, 72, (), None, False),  # no NVIDIA GPU
        (jnp.float32, 72, (), HOPPER, False),
        (jnp.bfloat16, 72, (), TURING, False),
        (jnp.bfloat16, 36, (), HOPPER, False),
        (jnp.bfloat16, 192, (), AMPERE, False),
        (jnp.bfloat16, 192, (), HOPPER, True),
        (jnp.bfloat16, 128, (333, 333), HOPPER, False),
        (jnp.bfloat16, 128, (334, 334), HOPPER, True),
    ],
)
def test_where_cudnn_has_a_kernel(dtype, head_dim, masked_lengths, device, fits):
    assert fits_cudnn(dtype, head_dim, masked_lengths, device) is fits


def test_a_cpu_has_none():
    assert capability() is None


def test_hidden_keys_do_not_count():
    rng = np.random.default_rng(0)
    query, key, value = rng.standard_normal((3, 2, 5, 3, 8)).astype(np.float32)
    seen = np.arange(5) < 4
    mask = jnp.asarray(np.broadcast_to(seen[None, None, None], (2, 1, 1, 5)))
    masked = attention(query, key, value, mask)
    short = attention(query, key[:, :4], value[:, :4])
    np.testing.assert_allclose(masked, short, atol=1e-6)
    scores = np.einsum("bqhd,bshd->bhqs", query, key[:, :4]) / np.sqrt(8)
    weights = jax.nn.softmax(scores, axis=-1)
    expected = np.einsum("bhqs,bshd->bqhd", weights, value[:, :4])
    np.testing.assert_allclose(short, expected, atol=1e-5)
