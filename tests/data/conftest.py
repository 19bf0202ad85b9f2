"""Small episodes that look like a robot's, and a cache folder that is thrown away."""

import os
from pathlib import Path

import numpy as np
import pytest

from wmpo_jax.data.episodes import Episode, EpisodeInfo

SIZE = 32


def moving_square(steps: int, seed: int) -> np.ndarray:
    """uint8 [steps + 1, 32, 32, 3]: a square that moves a pixel per step."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(40, 160, SIZE)
    background = np.stack([ramp[None] + 0 * ramp[:, None], ramp[:, None] + 0 * ramp[None]], -1)
    frames = np.repeat(np.dstack([background, background[..., :1]])[None], steps + 1, axis=0)
    row = int(rng.integers(2, 20))
    for time, frame in enumerate(frames):
        frame[row : row + 8, time % 24 : time % 24 + 8] = (200, 60, 60)
    return frames.astype(np.uint8)


def make_episode(number: int, steps: int, success: bool | None = True) -> Episode:
    rng = np.random.default_rng(number)
    info = EpisodeInfo(
        name=f"episode_{number}",
        actions_NA=rng.uniform(-1, 1, (steps, 7)).astype(np.float32),
        num_frames=steps + 1,
        instruction=["pick up the bowl", "open the drawer"][number % 2],
        success=success,
        finish_step=steps - 1 if success else steps,
        camera="agentview",
        fps=20.0,
        source="tests",
        seed=100 + number,
    )
    return Episode(info, moving_square(steps, number))


@pytest.fixture(scope="session")
def episodes() -> list[Episode]:
    """Five, of 10 to 14 steps; the fourth fails."""
    return [make_episode(number, 10 + number, success=number != 3) for number in range(5)]


@pytest.fixture(scope="session", autouse=True)
def throwaway_cache(tmp_path_factory):
    """Looks at datasets are remembered here."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield Path(os.environ["XDG_CACHE_HOME"])
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before
