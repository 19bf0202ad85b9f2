"""Micro-batches, means over intervals, and numbers that are not finite."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from wmpo_jax.runtime import preemption
from wmpo_jax.runtime.checkpoints import Checkpoints
from wmpo_jax.runtime.errors import Preempted, UserError
from wmpo_jax.runtime.mesh import make_mesh
from wmpo_jax.runtime.metrics import MetricWriter, read_metrics
from wmpo_jax.training.fit import LoopFiles, Stream, fit
from wmpo_jax.training.state import initial_state
from wmpo_jax.training.step import Batch, make_step

MESH = make_mesh(ConfigDict({"mesh": {"data": 1, "fsdp": -1, "tensor": 1}}))


def square(params: Any, data: Any, key: jax.Array, step: jax.Array) -> Any:
    x = data.rows["x"] if isinstance(data, Batch) else data["x"]
    return jnp.square(params["w"] - x).mean(), {}


class Numbers:
    """A loader whose batch number n holds n."""

    batch_size = 8

    def iterate(self, step: int) -> Any:
        while True:
            yield {"x": np.full(self.batch_size, step, np.float32)}
            step += 1


def files(folder: Any, name: str = "sft") -> LoopFiles:
    checkpoints = Checkpoints(folder / "checkpoints" / name)
    return LoopFiles(name, checkpoints, lambda at: MetricWriter(folder, name, at, False))


def test_accumulated_micro_batches_of_a_loader_are_its_rows_each_once():
    optimizer = optax.sgd(1.0)
    rows = {"x": jnp.arange(8.0)}
    found = []
    for accumulate in (1, 4):
        step = make_step(MESH, square, optimizer, jax.random.key(0), accumulate=accumulate)
        state = initial_state(MESH, {"w": jnp.float32(0.0)}, optimizer)
        state, metrics = step(state, Batch(rows))
        found.append((float(state.params["w"]), float(metrics["loss"])))
    np.testing.assert_allclose(found[0], [7.0, 17.5])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)


def test_the_logged_loss_is_the_mean_of_the_interval(tmp_path):
    optimizer = optax.sgd(0.0)
    step = make_step(MESH, square, optimizer, jax.random.key(0))
    state = initial_state(MESH, {"w": jnp.float32(0.0)}, optimizer)
    fit(files(tmp_path), MESH, state, step, Stream(Numbers()), 40, 40)
    logged = [record["sft/loss"] for record in read_metrics(tmp_path / "sft.jsonl")]
    expected = [np.square(np.arange(first, first + 20.0)).mean() for first in (0, 20)]
    np.testing.assert_allclose(logged, expected, rtol=1e-6)


def test_what_is_not_finite_is_never_saved(tmp_path):
    """The loss becomes NaN in step 7, long before it is logged; the checkpoint of step 8 is due."""

    def breaks(params: Any, data: Any, key: jax.Array, step: jax.Array) -> Any:
        return jnp.where(step >= 6, jnp.nan, 1.0) * square(params, data, key, step)[0], {}

    optimizer = optax.sgd(0.1)
    step = make_step(MESH, breaks, optimizer, jax.random.key(0))
    state = initial_state(MESH, {"w": jnp.float32(0.0)}, optimizer)
    with pytest.raises(UserError, match=r"loss of stage sft is nan at step 8: lower sft\.learning"):
        fit(files(tmp_path), MESH, state, step, {"x": jnp.ones(8)}, 40, 4)
    assert files(tmp_path).checkpoints.latest_step() == 4


def test_a_stop_between_two_records_leaves_none_of_its_own(tmp_path, monkeypatch):
    """It saves; what is logged stays at the steps of an uninterrupted run."""
    optimizer = optax.sgd(0.0)
    step = make_step(MESH, square, optimizer, jax.random.key(0))
    state = initial_state(MESH, {"w": jnp.float32(0.0)}, optimizer)
    answers = iter([False] * 6 + [True])
    monkeypatch.setattr(preemption, "stop_requested", lambda: next(answers))
    with pytest.raises(Preempted):
        fit(files(tmp_path), MESH, state, step, {"x": jnp.ones(8)}, 40, 40)
    assert files(tmp_path).checkpoints.latest_step() == 7
    assert read_metrics(tmp_path / "sft.jsonl") == []
