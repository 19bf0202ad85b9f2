"""The self-check passes here, and names what differs elsewhere."""

import copy
import json

import numpy as np
import pytest

from wmpo_jax.envs.libero import golden
from wmpo_jax.envs.libero.golden import FILE, differences
from wmpo_jax.runtime.errors import UserError

STORED = json.loads(FILE.read_text())


@pytest.mark.slow
def test_the_golden_episode_is_played_here():
    golden.check()


@pytest.mark.parametrize(
    ("change", "saying"),
    [
        (lambda f: f["packages"].update(mujoco="2.3.7"), "mujoco is 2.3.7 and was 3.17.0"),
        (lambda f: f.update(tiles=np.rot90(f["tiles"], 2)), "it is turned by 180 degrees"),
        (lambda f: f.update(tiles=np.array(f["tiles"])[::-1]), "it is upside down"),
        (lambda f: f.update(tiles=np.zeros((8, 8))), "the picture differs by"),
        (lambda f: f.update(qpos=np.array(f["qpos"]) + 0.01), "after 16 actions something is 0.01"),
        (lambda f: f.update(qpos=np.array(f["qpos"]) * np.nan), "something is nan"),
        (lambda f: f.update(qpos=f["qpos"][:-1]), "the scene has 47 positions, not 48"),
    ],
)
def test_what_differs_is_named(change, saying, monkeypatch):
    found = copy.deepcopy(STORED)
    change(found)
    assert any(saying in words for words in differences(found, STORED))
    monkeypatch.setattr(golden, "play", lambda: (found, "egl"))
    with pytest.raises(UserError, match="no success rate is reported"):
        golden.check()


def test_nothing_differs_from_itself():
    assert differences(copy.deepcopy(STORED), STORED) == []
