"""Stages 2 to 6 on LeRobot datasets; press, whose episodes they hold, stands for the robot."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from examples import real_robot
from tests.data.conftest import make_episode, throwaway_cache
from wmpo_jax.data.collected import from_arrays
from wmpo_jax.data.formats import WRITERS
from wmpo_jax.envs import registry
from wmpo_jax.envs.dynamics import expert_actor, record
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import load_arrays
from wmpo_jax.runtime.metrics import read_metrics

__all__ = ["throwaway_cache"]  # used by pytest


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Demonstrations that aim well, and rollouts half of which do not know the goal."""
    root, env = tmp_path_factory.mktemp("robot"), registry.make("press")
    play = jax.jit(lambda seeds: record(env, env.play, seeds, jax.random.key(0), 0.0))
    expert = jax.jit(
        lambda seeds: record(env, expert_actor(env, 0.0), seeds, jax.random.key(0), 0.0)
    )
    seeds = np.arange(8)
    videos = {"demos": [expert(seeds)], "rollouts": [expert(seeds), play(seeds)]}
    for name, parts in videos.items():
        episodes = []
        for number, video in enumerate(parts):
            episodes += from_arrays(
                np.asarray(video.frames_BTHWC),
                np.asarray(video.actions_BTA),
                ["press the pad"] * 8,
                np.asarray(video.success_B),
                np.asarray(video.finish_step_B),
                seeds + 100 * number,
                source="robot",
                fps=20.0,
            )
        WRITERS["lerobot"](root / name, episodes)
    return root


FEW = [
    "--config.tensorboard=False",
    "--config.cpu_devices=1",
    "--config.sft.steps=4",
    "--config.world_model.pretrain_steps=2",
    "--config.world_model.align_steps=2",
    "--config.reward.steps=4",
    "--config.improve.iterations=1",
]


@pytest.mark.slow
def test_two_calls_make_a_policy_without_a_simulator(datasets, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_FACTORIES", {})
    demos = [f"--demos={datasets / 'demos'}", f"--workdir={tmp_path / 'run'}", "--variant=smoke"]
    assert real_robot.main([*demos, *FEW]) == 0
    assert {p.stem for p in (tmp_path / "run/stages").iterdir()} == {"demos", "sft"}

    monkeypatch.setattr(registry, "_FACTORIES", {})  # as in a second process
    assert real_robot.main([*demos, f"--rollouts={datasets / 'rollouts'}", *FEW]) == 0
    results = {p.stem: json.loads(p.read_text()) for p in (tmp_path / "run/stages").iterdir()}
    assert {"collect", "autoencoder", "world_model", "reward", "improve"} < results.keys()
    assert results["collect"]["episodes"] == 16
    assert 0 < results["collect"]["success_rate"] < 1
    assert results["improve"]["imagined_episodes"] > 0
    losses = read_metrics(tmp_path / "run/metrics/world_model.jsonl")
    assert all(np.isfinite(line["world_model/loss"]) for line in losses)
    rollouts = load_arrays(tmp_path / "run/data/rollouts/episodes.npz", "collect")
    assert rollouts["frames_BTHWC"].shape == (16, 13, 32, 32, 3)
    assert (tmp_path / "run/report/index.html").exists()


def test_a_missing_dataset_is_one_sentence(tmp_path, capsys):
    flags = [f"--demos={tmp_path / 'nothing'}", f"--workdir={tmp_path / 'run'}"]
    assert real_robot.main(flags) == 2
    assert "There is nothing at" in capsys.readouterr().err


def test_an_episode_without_an_outcome_is_refused(tmp_path):
    WRITERS["hdf5"](tmp_path / "rollouts.hdf5", [make_episode(0, 8, success=None)])
    task = SimpleNamespace(instructions=("pick up the bowl",))
    words = SimpleNamespace(task=task, workdir=None)
    with pytest.raises(UserError, match="must say whether it succeeded"):
        real_robot.adopt(words, tmp_path / "rollouts.hdf5")
