"""The inspection: what it prints, draws and finds; and the commands of docs/data.md."""

import dataclasses
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data import builders
from tests.data.conftest import make_episode
from wmpo_jax.data import __main__ as command_line
from wmpo_jax.data.dataset import open_dataset
from wmpo_jax.data.episodes import Episode
from wmpo_jax.data.formats import WRITERS
from wmpo_jax.data.inspection import (
    COLUMNS,
    SIDE,
    far_actions,
    inspect,
    longest_still,
    still_frames,
)
from wmpo_jax.data.webdataset import write_webdataset
from wmpo_jax.runtime import environment

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quiet_process(monkeypatch):
    """Leaves this process's environment as it is."""
    monkeypatch.setattr(environment, "prepare", lambda: None)


def frozen(episode: Episode) -> Episode:
    frames = episode.frames_FHWC.copy()
    frames[4:] = frames[4]
    return Episode(episode.info, frames)


def far(episode: Episode) -> Episode:
    actions = episode.info.actions_NA.copy()
    actions[5, 1] = 40.0
    return Episode(dataclasses.replace(episode.info, actions_NA=actions), episode.frames_FHWC)


def test_suspicious_episodes_are_found(tmp_path, episodes):
    usual = [make_episode(number, 60) for number in range(4)]
    write_webdataset(tmp_path / "set.tar", [*usual, frozen(usual[0]), far(usual[1])])
    dataset = open_dataset(tmp_path / "set.tar")
    for episode in usual:
        assert still_frames(episode.frames_FHWC) == []
        assert far_actions(episode.info.actions_NA, dataset.statistics) == []
    assert still_frames(frozen(usual[0]).frames_FHWC) == ["57 equal frames in a row"]
    (outside,) = far_actions(far(usual[1]).info.actions_NA, dataset.statistics)
    assert outside.startswith("action 5 dimension 1 is 40,")
    report = inspect(dataset, tmp_path / "sheet.png", chunk=8)
    assert "suspicious    2" in report and "episode_1: action 5" in report


def test_longest_still():
    frames = np.arange(6).repeat([1, 3, 1, 2, 1, 1])[:, None, None, None]
    assert longest_still(frames) == 3
    assert longest_still(frames[:1]) == 1


def test_report_and_sheet(tmp_path, episodes, capsys):
    write_webdataset(tmp_path / "set.tar", [*episodes, _nan(make_episode(9, 9))])
    with pytest.warns(UserWarning, match="skipped 1 bad of 6"):
        status = command_line.main(
            ["inspect", f"{tmp_path}/set.tar", f"--sheet={tmp_path}/sheet.png"]
        )
    report = capsys.readouterr().out
    assert status == 0
    for line in (
        "5 good, 1 bad",
        "1 failure, 4 success",
        "60 in all; per episode 10 to 14, median 12",
        "5 of 32 x 32 at 20 per second",
        "3  pick up the bowl",
        "NaN or an infinity in action 2",
    ):
        assert line in report
    assert Image.open(tmp_path / "sheet.png").size[0] == COLUMNS * SIDE


def test_counts_and_statistics_are_those_of_training(tmp_path, capsys):
    """Of seven demonstrations five have frames that can be read, and two are long enough."""

    def build(file):
        for number, steps in enumerate((1, 5, 7, 20, 3, 12, 9)):
            builders.demo(file, number, steps)
        file["data/demo_6/actions"][...] = 1000.0
        # Frames of another size: bad, though its actions can be read.
        del file["data/demo_6/obs/agentview_rgb"]
        file["data/demo_6/obs/agentview_rgb"] = builders.pictures(9)[:, ::2]
        file["data/demo_3"].attrs["language_instruction"] = "lift it"

    path = builders.hdf5(tmp_path / "set.hdf5", build)
    with pytest.warns(UserWarning, match="6 of 7 episodes have no instruction"):
        assert command_line.main(["inspect", str(path), f"--sheet={tmp_path}/x.png"]) == 0
    report = capsys.readouterr().out
    for line in (
        "2 good, 1 bad, 4 too short for a chunk of 8 actions (--chunk): set/demo_0, set/demo_1,",
        "48 in all; per episode 1 to 20",
        "at 20 per second (assumed: the dataset does not say)",
        "instructions  1; 5 of 6 episodes have none (--instruction)",
        "bad           1\n    episode 6: ",
        "to 0, it never moves",
    ):
        assert line in report
    assert "1000" not in report


def test_a_dimension_that_rarely_moves_is_shown(tmp_path, capsys):
    def build(file):
        group = builders.demo(file, steps=200)
        group["actions"][:, 5] = np.arange(200) == 30

    path = builders.hdf5(tmp_path / "set.hdf5", build)
    flags = ["--instruction=press", "--chunk=4", f"--sheet={tmp_path}/x.png"]
    assert command_line.main(["inspect", str(path), *flags]) == 0
    report = capsys.readouterr().out
    assert "by min and max, it moves in less than 2 % of the steps" in report
    assert "suspicious    0" in report


def _nan(episode: Episode) -> Episode:
    episode.info.actions_NA[2] = np.nan
    return episode


@pytest.mark.parametrize("name", ["hdf5", "lerobot", "rlds_tfrecord"])
def test_convert(tmp_path, episodes, name):
    write_webdataset(tmp_path / "set.tar", episodes[:2])
    target = tmp_path / ("new.hdf5" if name == "hdf5" else "new")
    assert (
        command_line.main(["convert", f"{tmp_path}/set.tar", str(target), f"--format={name}"]) == 0
    )
    found = open_dataset(target)
    assert [entry.steps for entry in found.episodes] == [10, 11]
    assert command_line.main(["inspect", str(target), f"--sheet={tmp_path}/sheet.png"]) == 0


def test_mistakes_end_with_a_sentence(tmp_path, capsys):
    assert command_line.main(["inspect", f"{tmp_path}/nowhere"]) == 2
    assert "There is nothing at" in capsys.readouterr().err
    assert command_line.main(["openx", str(tmp_path), f"{tmp_path}/mixture.json"]) == 2
    assert not (tmp_path / "mixture.json").exists()


def test_openx_writes_a_mixture(tmp_path, capsys):
    (tmp_path / "kuka").mkdir()
    assert command_line.main(["openx", str(tmp_path), f"{tmp_path}/mixture.json"]) == 0
    assert "lists 1 datasets" in capsys.readouterr().out


def documented(module: str) -> list[list[str]]:
    """The flags of the commands after `<!-- run -->` that start a module."""
    parts = (ROOT / "docs/data.md").read_text().split("<!-- run -->\n\n    ")[1:]
    commands = [shlex.split(part.splitlines()[0]) for part in parts]
    return [words[3:] for words in commands if words[2] == module]


def test_documented_commands(tmp_path, episodes):
    WRITERS["hdf5"](tmp_path / "set.hdf5", episodes[:2])
    places = {"DATASET": f"{tmp_path}/set.hdf5", "NEW": f"{tmp_path}/new", "sheet.png": "x.png"}
    commands = documented("wmpo_jax.data")
    assert len(commands) == 2
    for flags in commands:
        flags = [places.get(flag, flag) for flag in flags]
        flags = [flag.replace("=sheet.png", f"={tmp_path}/sheet.png") for flag in flags]
        assert command_line.main(flags) == 0
    assert (tmp_path / "sheet.png").exists() and (tmp_path / "new/meta/info.json").exists()
