"""The self-check agrees with upstream here, and names what differs elsewhere."""

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from wmpo_jax.envs.libero import golden
from wmpo_jax.envs.libero.benchmark import HORIZONS, make_protocol
from wmpo_jax.envs.libero.measures import picture
from wmpo_jax.runtime.errors import UserError

# Two episodes by tests/golden/record_libero.py under MuJoCo 3.17.0.
NEWER = Path(__file__).parents[2] / "golden/data/libero_mujoco317.json"
STORED = golden.load()
EPISODES = STORED["episodes"]


def episode(suite, task):
    return next(row for row in EPISODES if (row["suite"], row["task"]) == (suite, task))


def test_upstreams_versions_made_the_stored_episodes():
    assert tuple(map(int, STORED["packages"]["mujoco"].split(".")[:2])) < (3, 4)
    tasks = {
        suite: {row["task"] for row in EPISODES if row["suite"] == suite} for suite in HORIZONS
    }
    assert {len(found) for found in tasks.values()} == {3}


@pytest.mark.slow
def test_upstreams_episodes_are_played_here():
    """The suite in which contacts are sensitive, and the one in which colors are."""
    golden.check(make_protocol("libero_spatial"), workers=2)


@pytest.mark.slow
def test_an_episode_that_is_set_up_otherwise_is_noticed(monkeypatch):
    """Orientation, resolution, settle steps and the gripper's sign, all wrong at once."""
    there = episode("libero_object", 0)
    wrong = dataclasses.replace(
        make_protocol("libero_object", image_size=64), rotation=0, settle_steps=3
    )
    flipped = golden.actions() * [1, 1, 1, 1, 1, 1, -1] + [0, 0, 0, 0, 0, 0, 1]
    monkeypatch.setattr(golden, "actions", lambda: flipped)
    (here,) = golden.play(wrong, [there], workers=1)
    kinds = {kind for kind, _ in golden.differences(here, there)}
    assert {"size", "time", "gripper"} <= kinds
    here["picture"]["size"] = there["picture"]["size"]
    assert ("orientation", "the picture is turned by 180 degrees") in golden.differences(
        here, there
    )


@pytest.mark.parametrize(
    ("suite", "task", "words"),
    [("libero_object", 0, "levels darker"), ("libero_spatial", 5, "akita_black_bowl_1 is ")],
)
def test_a_newer_mujoco_is_noticed(suite, task, words):
    """Darker textures, and a bowl that slides off its ramekin."""
    rows = json.loads(NEWER.read_text())["episodes"]
    here = next(row for row in rows if (row["suite"], row["task"]) == (suite, task))
    findings = golden.differences(here, episode(suite, task))
    assert any(words in found for _, found in findings)


def _resized(row):
    """As a picture of 8 x 8 pixels looks after it was enlarged."""
    gray = np.array(row["picture"]["tiles"]).round().astype(np.uint8)
    row["picture"] = picture(np.kron(gray, np.ones((16, 16), np.uint8))[..., None].repeat(3, 2))


def _tiles(change):
    def apply(row):
        row["picture"]["tiles"] = change(np.array(row["picture"]["tiles"])).tolist()

    return apply


def _set(*path):
    def apply(row):
        *above, last, value = path
        for name in above:
            row = row[name]
        row[last] = value

    return apply


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_tiles(lambda tiles: tiles[::-1, ::-1]), "the picture is turned by 180 degrees"),
        (_tiles(lambda tiles: tiles[::-1]), "the picture is upside down"),
        (_tiles(lambda tiles: tiles[:, ::-1]), "the picture is mirrored"),
        (_tiles(lambda tiles: tiles * 0), "the picture differs by"),
        (_resized, "another resolution?"),
        (_set("picture", "size", [256, 256]), "frames are [256, 256] pixels, not [128, 128]"),
        (_set("origins", "initial state", 1), "its initial state is not upstream's"),
        (_set("origins", "meshes and textures", 1), "its meshes and textures is not upstream's"),
        (_set("origins", "task file", 1), "its task file is not upstream's"),
        (_set("settled", "time", 0.0), "settle steps off"),
        (_set("settled", "things", {}), "not in both scenes"),
        (_set("settled", "hand", [0.0, 0.0, np.nan]), "hand is nan mm"),
        (_set("afterwards", "fingers", [0.0, 0.0]), "gripper's sign"),
    ],
)
def test_what_differs_is_named(change, words, monkeypatch):
    there = episode("libero_object", 0)
    here = copy.deepcopy(there)
    change(here)
    assert any(words in found for _, found in golden.differences(here, there))
    monkeypatch.setattr(golden, "play", lambda protocol, episodes, workers: [here])
    monkeypatch.setattr(golden, "load", lambda: STORED | {"episodes": [there]})
    with pytest.raises(UserError, match=r"libero_object task 0: .* no success rate is reported"):
        golden.check(make_protocol("libero_object"), 1)


def test_versions_are_named_only_where_numbers_differ(monkeypatch):
    there = episode("libero_object", 0)
    old = {"packages": {"mujoco": "2.3.7"}, "episodes": [there]}
    monkeypatch.setattr(golden, "load", lambda: old)
    monkeypatch.setattr(golden, "play", lambda protocol, episodes, workers: [there])
    golden.check(make_protocol("libero_object"), 1)
    darker = copy.deepcopy(there)
    darker["picture"]["levels"] = [level - 30 for level in darker["picture"]["levels"]]
    monkeypatch.setattr(golden, "play", lambda protocol, episodes, workers: [darker])
    with pytest.raises(UserError, match=r"30\.0 levels darker; mujoco is .*, upstream's 2\.3\.7"):
        golden.check(make_protocol("libero_object"), 1)
