"""Stages that train on a user's own data, and the streams that feed them."""

import json
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from tests.data.conftest import make_episode, throwaway_cache
from tests.stages.processes import ROOT, finish, start
from wmpo_jax.data.formats import WRITERS
from wmpo_jax.data.loading import WindowSpec
from wmpo_jax.runtime import preemption
from wmpo_jax.runtime.config import load_config
from wmpo_jax.runtime.errors import Preempted, UserError
from wmpo_jax.runtime.mesh import make_mesh
from wmpo_jax.runtime.workdir import Workdir
from wmpo_jax.stages import pipeline
from wmpo_jax.stages.context import RunContext
from wmpo_jax.training.fit import Stream, fit
from wmpo_jax.training.state import initial_state
from wmpo_jax.training.step import make_step

__all__ = ["throwaway_cache"]  # used by pytest


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("own") / "set.hdf5"
    WRITERS["hdf5"](path, [make_episode(number, 14) for number in range(4)])
    return path


def small_config(dataset: Path) -> ConfigDict:
    overrides = [f"data.source={dataset}", "task=", "tensorboard=False"]
    return load_config("configs/tiny.py:smoke", overrides)


def linear_fit(dataset: Path, workdir: Path, steps: int) -> np.ndarray:
    """Trains a matrix on streamed windows with the stages' own loop."""
    config = small_config(dataset)
    context = RunContext(config, Workdir(workdir, config), make_mesh(config))
    spec = WindowSpec(history=1, chunk=4, future=False)
    stream = Stream(context.stream("linear", spec, 8, clip=True).loader, {"scale": jnp.ones(())})

    def loss(params, data, key, step):
        frames = data.rows["frames_BTHWC"].astype(jnp.float32)
        features = frames.mean(axis=(1, 2)).reshape(8, -1)
        predicted = features @ params["weights"] / 255 * data.constants["scale"]
        return jnp.square(predicted - data.rows["actions_BKA"][:, 0]).mean(), {}

    optimizer = optax.adam(1e-2)
    step_fn = make_step(context.mesh, loss, optimizer, jax.random.key(0))
    state = initial_state(context.mesh, {"weights": jnp.zeros((96, 7))}, optimizer)
    files = context.loop_files("linear")
    state = fit(files, context.mesh, state, step_fn, stream, steps, 100)
    return np.asarray(state.params["weights"])


def test_a_stream_that_is_stopped_goes_on_with_the_same_batches(dataset, tmp_path, monkeypatch):
    expected = linear_fit(dataset, tmp_path / "whole", 12)
    asked = iter([False] * 4 + [True])
    monkeypatch.setattr(preemption, "stop_requested", lambda: next(asked))
    with pytest.raises(Preempted):
        linear_fit(dataset, tmp_path / "stopped", 12)
    monkeypatch.setattr(preemption, "stop_requested", lambda: False)
    np.testing.assert_array_equal(linear_fit(dataset, tmp_path / "stopped", 12), expected)


def test_stages_that_need_episodes_of_their_own_refuse(dataset, tmp_path):
    config = small_config(dataset)
    workdir = Workdir(tmp_path / "run", config)
    with pytest.raises(UserError, match=r"Stage reward cannot use config\.data\.source"):
        pipeline.run_all(config, workdir, make_mesh(config), ["demos", "reward"])
    with pytest.raises(UserError, match="there is only a dataset"):
        RunContext(config, workdir, make_mesh(config)).env.reset(jnp.int32(0))


def test_data_that_the_task_does_not_fit(dataset, tmp_path):
    config = small_config(dataset)
    config.task = "press"
    workdir = Workdir(tmp_path / "run", config)
    with pytest.raises(UserError, match="7 numbers per action and the task press 3"):
        pipeline.run_all(config, workdir, make_mesh(config), ["demos"])


def test_the_documented_run(dataset, tmp_path):
    parts = (ROOT / "docs/data.md").read_text().split("<!-- run -->\n\n    ")[1:]
    (line,) = [part.splitlines()[0] for part in parts if "wmpo_jax.main" in part]
    line = line.replace("DATASET", str(dataset)).replace("RUN", f"{tmp_path}/run")
    config, *flags = shlex.split(line)[3:]
    status, errors = finish(start(*flags, config=config.removeprefix("--config=")))
    assert status == 0, errors
    results = {p.stem: json.loads(p.read_text()) for p in (tmp_path / "run/stages").glob("*")}
    assert results.keys() == {"demos", "sft", "autoencoder", "world_model"}
    assert (results["demos"]["episodes"], results["demos"]["demo_success"]) == (4, 1.0)
    for name in ("sft", "world_model"):
        lines = (tmp_path / f"run/metrics/{name}.jsonl").read_text().splitlines()
        losses = [json.loads(text)[f"{name}/loss"] for text in lines]
        assert np.isfinite(losses).all()
    assert (tmp_path / "run/report/index.html").exists()
