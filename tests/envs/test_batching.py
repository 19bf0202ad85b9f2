"""The cutting of a batch changes nothing but how much runs at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wmpo_jax.envs.tabletop.batching import in_safe_batches, safe_batch


def test_two_free_cubes_and_a_tool_stay_below_one_task():
    assert safe_batch(nv=15) * (15**3 // 3) < 200_000 <= (safe_batch(nv=15) + 1) * (15**3 // 3)


@pytest.mark.parametrize(("count", "at_once"), [(1, 1), (4, 4), (7, 1), (12, 4)])
def test_the_result_is_that_of_vmap(count, at_once):
    def function(x_33, nothing, scale):
        return scale * jnp.linalg.cholesky(x_33), nothing

    x = jnp.eye(3) * jnp.arange(1.0, count + 1)[:, None, None]
    nothing = jnp.zeros((count, 0))
    guarded = jax.vmap(in_safe_batches(function, 4), in_axes=(0, 0, None))
    factors, empty = guarded(x, nothing, 2.0)
    np.testing.assert_allclose(factors, 2 * jnp.sqrt(x), rtol=1e-6)
    assert empty.shape == (count, 0)
    assert f"f32[{at_once},3,3] = cholesky" in str(jax.make_jaxpr(guarded)(x, nothing, 2.0))
