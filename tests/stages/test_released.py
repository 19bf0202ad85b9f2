"""The whole cycle from checkpoints in the released formats, data on disk, a simulator on the host.

The networks are small and random and nothing is learned; every stage and every file is real.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.conversion import synthetic
from tests.data.conftest import make_episode, throwaway_cache
from tests.stages.fake_host import Lifts
from wmpo_jax import convert
from wmpo_jax.agents.policy import Adapted
from wmpo_jax.assembly import agents, networks
from wmpo_jax.conversion.store import Store
from wmpo_jax.data.formats import WRITERS
from wmpo_jax.envs import registry
from wmpo_jax.runtime.config import load_config
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.mesh import make_mesh
from wmpo_jax.runtime.workdir import Workdir
from wmpo_jax.stages import pipeline
from wmpo_jax.stages.context import RunContext
from wmpo_jax.training import state

__all__ = ["throwaway_cache"]  # used by pytest


class Drawers(Lifts):
    """With the words of the dataset, and chunks as released networks want them."""

    instructions: tuple[str, ...] = ("pick up the bowl", "open the drawer")
    chunk, horizon, image_size = 8, 16, 32


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint of every kind, as `convert import` leaves it."""
    root = tmp_path_factory.mktemp("released")
    made = {}
    for kind in networks.PRESETS:
        source = synthetic.write_folder(root / kind, kind, synthetic.tensors(kind), shards=1)
        synthetic.write_tokenizer(source, ["bowl?", "drawer?"])
        made[kind] = str(root / f"{kind}_imported")
        flags = ["import", f"--kind={kind}", f"--source={source}", f"--target={made[kind]}"]
        assert convert.main(flags) == 0
    return made


@pytest.fixture
def config(folders, tmp_path):
    data = tmp_path / "set.hdf5"
    WRITERS["hdf5"](data, [make_episode(number, 18) for number in range(4)])
    weights = [f"networks.weights.{kind}={folder}" for kind, folder in folders.items()]
    few = [
        "iterations=1",
        "groups=1",
        "group_size=4",
        "attempts=1",
        "minibatch=4",
        "micro_chunks=0",
    ]
    return load_config(
        "configs/libero.py",
        [
            *weights,
            *(f"improve.{value}" for value in (*few, "require_mixed=False")),
            f"data.source={data}",
            "tensorboard=False",
            "image_size=32",
            "networks.dtype=float32",
            "sft.steps=0",
            "collect.starts=2",
            "collect.group_size=4",
            "world_model.align_steps=2",
            "world_model.batch_size=4",
            "world_model.sampling_steps=2",
            "reward.steps=2",
            "reward.batch_size=4",
            "reward.accumulate=2",
            "reward.min_step=1",
            "gates.episodes=4",
            "evaluate.episodes=4",
            "evaluate.batch_size=4",
            "evaluate.videos=1",
        ],
    )


def test_every_stage_of_the_released_form(config, tmp_path, monkeypatch):
    """With adapters beside a frozen policy; the stages of the tiny form train all of it."""
    monkeypatch.setattr(registry, "make_reality", lambda *_: Drawers())
    config.policy.lora_rank, config.sft.steps = 4, 2
    workdir = Workdir(tmp_path / "run", config)
    pipeline.run_all(config, workdir, make_mesh(config))
    results = {p.stem: json.loads(p.read_text()) for p in (tmp_path / "run/stages").glob("*")}
    assert results.keys() == set(pipeline.CYCLE)
    assert results["autoencoder"]["scaling_factor"] == 0.13025
    assert (tmp_path / "run/report/index.html").exists()
    # Actions have the units of the imported policy's statistics.
    context = RunContext(config, workdir, make_mesh(config))
    build = context.trained.policy.build
    shapes = networks.policy_shapes(config, context.mesh, build)
    names = {path[-1] for path, _ in nnx.to_flat_state(shapes)}
    assert names == {"a", "b"}  # and nothing else was in the checkpoints
    params = context.trained.policy_params("sft")
    assert isinstance(params, Adapted)
    # The improved policy goes back to PyTorch's form, with the adapters in its kernels.
    pipeline.run_all(config, workdir, make_mesh(config), ["export"])
    before = networks.checkpoint(config, "policy")
    after = Store(workdir.path / "export" / "policy")
    assert before is not None and after.arrays("params").keys() == before.arrays("params").keys()
    name = "llama/blocks/1/q_proj/kernel"
    moved = np.abs(after.read("params", name) - before.read("params", name)).max()
    assert 0 < moved < 0.1
    back = str(tmp_path / "back")
    assert convert.main(["export", f"--source={after.folder}", f"--target={back}"]) == 0
    assert any((leaf != 0).any() for leaf in jax.tree.leaves(nnx.filter_state(params.adapters, _b)))
    np.testing.assert_allclose(context.statistics.q01, [-0.5] * 7)


def test_a_policy_begins_with_the_imported_weights(config, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "make_reality", lambda *_: Drawers())
    build, mesh = agents.policy(config, Drawers()).build, make_mesh(config)
    _, params = networks.create(config, mesh, "policy", build)
    store = networks.checkpoint(config, "policy")
    assert store is not None
    theirs = store.read("params", "llama/blocks/1/q_proj/kernel")
    np.testing.assert_array_equal(params["llama"]["blocks"]["q_proj"]["kernel"][...][1], theirs)
    fresh = state.create(mesh, build)[1]
    assert (fresh["llama"]["blocks"]["q_proj"]["kernel"][...][1] != theirs).any()


def test_adapters_begin_as_the_imported_policy(config, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "make_reality", lambda *_: Drawers())
    frames = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), np.uint8)
    logits = []
    for rank in (0, 4):
        config.policy.lora_rank = rank
        policy = agents.policy(config, Drawers())
        mesh = make_mesh(config)
        frozen = networks.frozen_policy(config, mesh, policy.build)
        params = networks.create_policy(config, mesh, policy.build, frozen)
        assert isinstance(params, Adapted) == bool(rank)
        logits.append(policy.logits(params, jnp.asarray(frames), jnp.zeros(2, jnp.int32)))
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-5)


def _b(path, _) -> bool:
    """NNX's filter of the adapters' second matrices, which begin as zeros."""
    return path[-1] == "b"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("networks.weights.reward={policy}", "is a policy: give another"),
        ("networks.weights.policy=nowhere", "is no converted checkpoint"),
        ("world_model.history=3", "looks 4 frames back"),
    ],
)
def test_what_does_not_fit_is_said(change, sentence, config, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "make_reality", lambda *_: Drawers())
    name, _, value = change.format(**folders).partition("=")
    section, _, field = name.rpartition(".")
    target = config
    for part in section.split("."):
        target = target[part]
    target[field] = type(target[field])(value)
    with pytest.raises(UserError, match=sentence):
        networks.vla_config(config, Drawers())
        networks.stdit_config(config, Drawers())
        networks.videomae_config(config, Drawers())
