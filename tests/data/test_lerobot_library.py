"""A dataset that LeRobot's own library (0.4.4) wrote: benchmarks/lerobot_library.py made it."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import lerobot_library as formula
from tests.data.conftest import throwaway_cache
from wmpo_jax.data.dataset import open_dataset
from wmpo_jax.data.episodes import read_episode

__all__ = ["throwaway_cache"]  # used by pytest

FIXTURE = Path(__file__).parent / "lerobot_0_4_4"


@pytest.mark.parametrize("number", range(formula.EPISODES))
def test_what_lerobot_writes_is_read_frame_by_frame(number):
    dataset = open_dataset(FIXTURE)
    assert len(dataset.episodes) == formula.EPISODES and not dataset.bad
    found = read_episode(dataset.source, number)
    frames_THWC, actions_TA = formula.episode(number)
    np.testing.assert_array_equal(found.frames_FHWC, frames_THWC[: len(found.frames_FHWC)])
    np.testing.assert_array_equal(found.info.actions_NA, actions_TA[: len(found.info.actions_NA)])
    assert found.info.instruction == f"follow formula {number}" and found.info.fps == formula.FPS
