"""The imagined environment through Gymnasium's interfaces; the worlds are made of arithmetic."""

import subprocess
import sys
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from wmpo_jax.algorithm.imagination import ImaginedDynamics
from wmpo_jax.algorithm.protocols import Observation
from wmpo_jax.envs import imagined
from wmpo_jax.runtime.errors import UserError

SIZE, CHUNK, CHUNKS = 8, 2, 3


class AddingWorld:
    """Latents are pixels, and every action adds ten times its mean to them."""

    history = 2

    def encode(self, frames_BTHWC, key):
        return frames_BTHWC.astype(jnp.float32)

    def predict(self, history_BThwc, actions_BKA, key):
        steps_BK = 10 * jnp.cumsum(actions_BKA.mean(axis=-1), axis=1)
        return history_BThwc[:, -1:] + steps_BK[..., None, None, None]

    def decode(self, latents_BThwc):
        return jnp.clip(latents_BThwc, 0, 255).astype(jnp.uint8)


class BrightRewardModel:
    """Certain of success when the newest pixel of the window is at least 100."""

    window = 2

    def score(self, frames_BTHWC, instruction_id_B):
        return (frames_BTHWC[:, 1:, 0, 0, 0] >= 100).astype(jnp.float32)


def first_frames(starts_N):
    """Start n is gray at level 50 + n mod 40, with the instruction n mod 2."""
    level_N = jnp.asarray(50 + starts_N % 40, jnp.uint8)
    frame_NHWC = jnp.broadcast_to(level_N[:, None, None, None], (len(starts_N), SIZE, SIZE, 3))
    words_N = jnp.asarray(starts_N % 2, jnp.int32)
    return Observation(frame_BHWC=frame_NHWC, instruction_id_B=words_N)


@pytest.fixture(scope="module")
def world() -> imagined.Imagination:
    dynamics = ImaginedDynamics(AddingWorld(), BrightRewardModel(), 0.5, 0)
    return imagined.Imagination(
        lambda parts: dynamics,
        (),
        first_frames,
        1000,
        chunk=CHUNK,
        action_dim=3,
        horizon=CHUNK * CHUNKS,
        image_size=SIZE,
        instructions=("be bright", "be white"),
    )


def actions(*levels: float) -> np.ndarray:
    """The same action all chunk long, one level per episode."""
    return np.broadcast_to(np.array(levels, np.float32)[:, None, None], (len(levels), CHUNK, 3))


def test_gymnasiums_own_checks(world):
    check_env(imagined.ImaginedEnv(world, render_mode="rgb_array"))


def test_spaces_and_rewards(world):
    envs: Any = imagined.ImaginedVectorEnv(world, 4)
    seen, _ = envs.reset(seed=3)
    assert envs.observation_space.contains(seen)
    assert envs.action_space.contains(envs.action_space.sample())
    assert envs.single_action_space.shape == (CHUNK, 3) and len(envs.render()) == 4
    before = seen["image"][:, 0, 0, 0].astype(int)
    assert (before != before[0]).any()
    seen, reward_N, solved_N, truncated_N, infos = envs.step(actions(1, -1, 0, 0.5))
    assert envs.observation_space.contains(seen)
    np.testing.assert_array_equal(seen["image"][:, 0, 0, 0], before + np.array([20, -20, 0, 10]))
    assert not solved_N.any() and not truncated_N.any() and not reward_N.any()
    np.testing.assert_array_equal(infos["steps"], [CHUNK] * 4)


def test_episodes_end_apart_and_begin_anew_with_the_next_step(world):
    envs = imagined.ImaginedVectorEnv(world, 2)
    seen, _ = envs.reset(seed=0)
    level = int(seen["image"][0, 0, 0, 0])
    history = [envs.step(actions(1, 0)) for _ in range(6)]
    rewards, solved, truncated = (np.array([step[i] for step in history]) for i in (1, 2, 3))
    first = -(-(100 - level) // 20) - 1  # the chunk in which ten per action have added up
    assert solved[:, 0].argmax() == first <= 2
    assert rewards[first, 0] == 1 and history[first][4]["success"][0]
    assert history[first][4]["steps"][0] == -(-(100 - level) // 10)
    anew, *_, infos = history[first + 1]
    assert infos["steps"].tolist()[0] == 0 and rewards[first + 1, 0] == 0
    assert 50 <= anew["image"][0, 0, 0, 0] < 90  # a first frame, whatever the action was
    # The other episode stands still: its clock runs by itself and ends at the horizon.
    assert truncated[:, 1].tolist() == [False, False, True, False, False, False]
    assert [step[4]["steps"][1] for step in history] == [2, 4, 6, 0, 2, 4]


def test_a_seed_decides_everything(world):
    def play(seed: int) -> list[Any]:
        envs = imagined.ImaginedVectorEnv(world, 3)
        found = [envs.reset(seed=seed)[0]["image"]]
        found += [envs.step(actions(1, 0, -1))[0]["image"] for _ in range(5)]
        return found

    np.testing.assert_array_equal(play(1), play(1))
    assert any((a != b).any() for a, b in zip(play(1), play(2), strict=True))


def test_wrappers_of_gymnasium_work(world):
    envs = RecordEpisodeStatistics(imagined.ImaginedVectorEnv(world, 2))
    envs.reset(seed=0)
    ends = [envs.step(actions(1, 0))[4] for _ in range(3)]
    assert ends[-1]["episode"]["r"].tolist()[1] == 0 and ends[-1]["episode"]["l"].tolist()[1] == 3


def test_what_is_no_finished_run(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="is no workdir of a run"):
        imagined.make(tmp_path)
    with pytest.raises(UserError, match="num_envs is 0"):
        imagined.make(tmp_path, 0)


def test_without_the_package_the_extra_is_named():
    program = "import sys; sys.modules['gymnasium'] = None; import wmpo_jax.envs.imagined"
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "pip install 'wmpo_jax[gymnasium]'" in result.stderr
