"""What the plan reads off jaxprs, compiled text and names of machines, on small cases."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

from tests.planning.stray import stray_gathers
from wmpo_jax.planning import chips, flops
from wmpo_jax.planning.collectives import (
    Collective,
    Matrices,
    collectives,
    trips,
    within,
)
from wmpo_jax.runtime.errors import UserError

HLO = """
HloModule jit_f, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%body (p: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %p = (s32[], bf16[4,8]{1,0}) parameter(0)
  %gather = bf16[16,8]{1,0:T(8,128)} all-gather(%x), channel_id=1, dimensions={0}
  ROOT %t = (s32[], bf16[4,8]) tuple(%i, %y)
}

%outer (p: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %inner = (s32[], bf16[4,8]) while(%p), condition=%cond, body=%body, \
backend_config={"known_trip_count":{"n":"30"}}
}

%cond (p: (s32[], bf16[4,8])) -> pred[] {
  ROOT %less = pred[] compare(%a, %b), direction=LT
}

ENTRY %main (p0: f32[8]) -> f32[8] {
  %w = (s32[], bf16[4,8]) while(%t), condition=%cond, body=%outer, \
backend_config={"known_trip_count":{"n":"28"}}
  %two = (bf16[4]{0}, /*index=1*/f32[6]{0}) all-reduce(%a, %b), to_apply=%add
  %start = (f32[8]{0}, f32[4,4,4]{0}) all-reduce-start(%p0), to_apply=%add
  ROOT %done = f32[8]{0} all-reduce-done(%start)
}
"""


def test_collectives_are_counted_as_often_as_their_loops_run() -> None:
    assert collectives(HLO) == [
        Collective("all-gather", 256, ((16, 8),), 28 * 30, (28, 30)),
        Collective("all-reduce", 8 + 24, ((4,), (6,)), 1, ()),
        Collective("all-reduce", 256, ((8,), (4, 4, 4)), 1, ()),
    ]


def test_matrices_sent_outside_the_loop_of_their_layers_are_found() -> None:
    found = collectives(HLO)
    layer, other = (8, 16), (4, 32)
    assert stray_gathers(found, Matrices({28: {layer}, 4: {other}}, set())) == []
    assert stray_gathers(found, Matrices({4: {layer}}, set())) == found[:1]  # elsewhere
    assert stray_gathers(found, Matrices({4: {layer}}, {layer})) == []  # or it is another one
    assert stray_gathers(found, Matrices({9: {(8, 8)}}, set())) == found[2:]  # split into heads
    assert stray_gathers(found, Matrices({4: {(4, 4)}}, set())) == found[2:]  # all layers at once
    assert within(found, 30) == found[:1]


def test_trips_of_a_loop_are_its_bound_where_the_compiler_gives_none() -> None:
    text = HLO.replace(', backend_config={"known_trip_count":{"n":"30"}}', "").replace(
        "\n  ROOT %less", "\n  %bound = s32[]{:T(128)} constant(30)\n  ROOT %less"
    )
    assert "30" in text and '"30"' not in text
    assert [c.loops for c in collectives(text)] == [(28, 30), (), ()]
    assert trips(text) == {28, 30}


def operations(function: Callable[..., jax.Array], *arguments: jax.Array) -> float:
    return flops.count(jax.make_jaxpr(function)(*arguments))


def test_flops_of_scanned_and_rematerialised_products() -> None:
    w = jnp.ones((3, 4, 4))

    def loss(x: jax.Array) -> jax.Array:
        body = jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None))
        return jax.lax.scan(body, x, w)[0].sum()

    product = 2 * 2 * 4 * 4
    assert operations(loss, jnp.ones((2, 4))) == 3 * product
    # Backward: the product again, and the gradient of x.
    assert operations(jax.grad(loss), jnp.ones((2, 4))) == 3 * product * 3


def test_flops_of_a_convolution() -> None:
    def convolve(image: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    assert operations(convolve, jnp.ones((1, 5, 5, 2)), jnp.ones((3, 3, 2, 7))) == 2 * 25 * 7 * 18


def test_machines() -> None:
    assert chips.machine("v5p:4x4x4").count == 64
    assert chips.machine("80GB:8").topology is None


@pytest.mark.parametrize("name", ["v5p", "v5p:4xx4", "v9:2x2", "80GB:65", "80GB:0", "12GB:1", ""])
def test_unknown_machines(name: str) -> None:
    with pytest.raises(UserError, match="There is no topology"):
        chips.machine(name)
