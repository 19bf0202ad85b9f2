"""What the numbers of the benchmark are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wmpo_jax.benchmark import growth, shares, tables, timing
from wmpo_jax.benchmark.cases import Case
from wmpo_jax.benchmark.measure import Prepared
from wmpo_jax.planning import flops

TEXT = """HloModule jit_step

FileNames
1 "/somewhere/wmpo_jax/models/stdit/blocks.py"
2 "/somewhere/site-packages/optax/_src/transform.py"
3 "/somewhere/wmpo_jax/training/step.py"

FunctionNames
1 "layer_norm"
2 "scale_by_adam"
3 "step"

FileLocations
1 {file_name_id=3 function_name_id=3 line=1 end_line=1 column=1 end_column=2}
2 {file_name_id=1 function_name_id=1 line=2 end_line=2 column=1 end_column=2}
3 {file_name_id=2 function_name_id=2 line=3 end_line=3 column=1 end_column=2}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=2}

%fused (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %inner = f32[4]{0} negate(%p), metadata={op_name="jit(step)/neg" stack_frame_id=2}
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0), metadata={op_name="x"}
  %norm = f32[4]{0} add(%x, %x), metadata={op_name="jit(step)/add" stack_frame_id=2}
  %adam = f32[4]{0} multiply(%x, %x), metadata={op_name="jit(step)/mul" stack_frame_id=3}
  %fusion = f32[4]{0} fusion(%adam), kind=kLoop, calls=%fused
  %product = f32[4]{0} dot(%adam, %x)
  ROOT %curve = f32[4]{0} tanh(%x), metadata={op_name="jit(step)/jit(gelu)/tanh" stack_frame_id=1}
}
"""


def test_instructions_belong_to_the_functions_they_were_written_in():
    parts = shares.instruction_parts(TEXT)
    found = {name: parts[name] for name in ("norm", "adam", "fusion", "product", "curve", "x")}
    assert found == {
        "norm": "norms",
        "adam": "optimizer",
        "fusion": "norms",  # what it fuses
        "product": "optimizer",  # where its operand is from
        "curve": "gelu",
        "x": "rest",
    }


def test_shares_of_a_program_add_up():
    compiled = jax.jit(lambda x: jnp.sin(x @ x)).lower(jnp.ones((256, 256))).compile()
    found = shares.shares(compiled, lambda: compiled(jnp.ones((256, 256))))
    assert sum(part.share for part in found) == pytest.approx(1.0)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_exponents(power: float):
    sizes = [2, 4, 8]
    assert growth.exponent(sizes, [3.0 * size**power for size in sizes]) == pytest.approx(power)


def test_traffic_counts_operands_and_results_as_often_as_a_loop_runs():
    x = jnp.ones((8, 16), jnp.bfloat16)

    def twice(x):
        def one(x, _):
            return jnp.dot(x, jnp.ones((16, 16), jnp.bfloat16)), None

        return jax.lax.scan(one, x, None, length=2)[0]

    closed = jax.make_jaxpr(twice)(x)
    assert flops.count(closed) == 2 * 2 * 8 * 16 * 16
    assert flops.traffic(closed) == 2 * 2 * (8 * 16 + 16 * 16 + 8 * 16)


def test_a_prepared_program_runs_again_on_what_it_used_up():
    step = jax.jit(lambda state, x: (state + x.sum(), x.mean()), donate_argnums=0)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32, sharding=place) for s in ((4,), (3,))]
    run = Prepared(Case("step", step, tuple(shapes), 1, "samples", ""))
    first = np.asarray(run()[0])
    assert np.all(np.asarray(run()[0]) != first)


def test_runs_alternate_and_keep_their_spread():
    order = []
    runs = {name: (lambda name=name: order.append(name)) for name in "ab"}
    found = timing.alternated(runs, 3)
    assert "".join(order) == "ababab"
    assert all(s.low <= s.median <= s.high and s.runs == 3 for s in found.values())


def test_a_table_has_a_line_for_each_row():
    rows = [{"part": "norms", "share": 0.25, "seconds": 0.01}] * 2
    assert tables.table(rows).splitlines() == [
        "| part | share | ms of a step |",
        "| --- | --- | --- |",
        "| norms | 25.0% | 10.0 |",
        "| norms | 25.0% | 10.0 |",
    ]
