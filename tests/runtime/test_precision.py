"""One product for every network: its values, its gradients, and where bfloat16 is chosen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wmpo_jax.models.dense import Dense
from wmpo_jax.runtime import precision
from wmpo_jax.runtime.errors import UserError

# Of a sum of n products, each factor rounded to 8 bits: about 2^-8 of the typical sum.
ROUNDING = 0.02


def _arrays(inner, outer):
    x_key, kernel_key, grad_key = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(x_key, (3, 5, inner))
    kernel = jax.random.normal(kernel_key, (inner, outer)) / inner**0.5
    return x, kernel, jax.random.normal(grad_key, (3, 5, outer))


def _value_and_gradients(product, x, kernel, grad):
    y, backward = jax.vjp(product, x, kernel)
    return y, *backward(grad)


@pytest.mark.parametrize(("inner", "outer"), [(6, 24), (24, 6)])
@pytest.mark.parametrize(("products", "bound"), [("float32", 1e-5), ("bfloat16", ROUNDING)])
def test_a_product_and_its_gradients(inner, outer, products, bound):
    x, kernel, grad = _arrays(inner, outer)
    found = _value_and_gradients(lambda x, k: precision.linear(x, k, products), x, kernel, grad)
    want = _value_and_gradients(lambda x, k: x @ k, x, kernel, grad)
    for ours, exact in zip(found, want, strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, exact, atol=bound * float(jnp.abs(exact).max()))


@pytest.mark.parametrize("inner", [6, 64])
def test_products_run_beside_any_transposition(inner):
    """XLA:CPU moves transpositions into products and has no code for some of the results."""
    x, kernel, weight = _arrays(inner, 24)

    def loss(x_T, table, products):
        y = precision.linear(x_T.T, table[3:27].T, products).T
        scores = precision.einsum("nd,kd->nk", y.T, y.T, products) / inner
        return jnp.vdot(precision.einsum("nk,kd->nd", scores.T, y.T, products), weight[0])

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)
    inputs = x[0].T, jnp.pad(kernel.T, ((3, 5), (0, 0)))  # rows of a table, as the policy's head
    found, exact = (gradient(*inputs, products) for products in ("bfloat16", "float32"))
    for ours, theirs in zip(found, exact, strict=True):
        assert jnp.linalg.norm(ours - theirs) < ROUNDING * jnp.linalg.norm(theirs)


def test_bfloat16_products_multiply_rounded_factors_and_sum_in_float32():
    """4096 products of 1 and 1 + 1/256: rounding of factors alone, none of the growing sum."""
    ones, kernel = jnp.ones((1, 4096)), jnp.full((4096, 1), 1 + 1 / 256)
    assert float(precision.linear(ones, kernel, "float32")[0, 0]) == 4096 + 16
    assert float(precision.linear(ones, kernel, "bfloat16")[0, 0]) == 4096
    assert (
        float(precision.linear(ones, jnp.full((4096, 1), 1 + 1 / 128), "bfloat16")[0, 0])
        == 4096 + 32
    )


def test_gradients_of_float32_kernels_are_float32_where_activations_are_bfloat16():
    layer = Dense(8, 4, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(layer)
    x = jnp.ones((2, 8), jnp.bfloat16)

    def total(params):
        return nnx.merge(graphdef, params)(x).astype(jnp.float32).sum()

    text = str(jax.make_jaxpr(jax.grad(total))(params))
    assert layer(x).dtype == jnp.bfloat16
    # The kernel's gradient is never rounded to bfloat16 on its way to the optimizer.
    assert "f32[8,4] = convert_element_type" not in text


def test_dense_multiplies_as_it_is_configured():
    narrow, wide = (Dense(64, 8, products=p, rngs=nnx.Rngs(0)) for p in ("bfloat16", "float32"))
    x = jax.random.normal(jax.random.key(1), (4, 64))
    difference = jnp.abs(narrow(x) - wide(x)).max()
    assert 0 < difference < ROUNDING * jnp.abs(wide(x)).max()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fma avx512f amx_bf16 amx_tile", True), ("fma avx512_bf16", True), ("fma avx2", False)],
)
def test_units_for_bfloat16_are_read_from_the_flags(tmp_path, flags, expected):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nflags\t\t: {flags}\nbugs : amx_bf16\n")
    assert precision.cpu_multiplies_bfloat16(cpuinfo) is expected


def test_no_flags_mean_float32(tmp_path):
    assert not precision.cpu_multiplies_bfloat16(tmp_path / "missing")


def test_auto_is_bfloat16_where_the_hardware_multiplies_it(monkeypatch):
    for here, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(precision, "cpu_multiplies_bfloat16", lambda here=here: here)
        assert precision.choose_products("auto", "cpu") == expected
        assert precision.choose_products("auto", "tpu") == "bfloat16"
    assert precision.choose_products("float32", "gpu") == "float32"
    with pytest.raises(UserError, match="auto, float32 or bfloat16"):
        precision.choose_products("tf32", "cpu")
