"""Episodes written while running: whole or not there, also after a kill."""

import subprocess
import sys
import time

import numpy as np

from tests.data.conftest import make_episode
from wmpo_jax.data.collected import EpisodeWriter, from_arrays
from wmpo_jax.data.dataset import open_dataset
from wmpo_jax.data.episodes import read_episode

WRITE_FOR_EVER = """
import sys
from pathlib import Path
from tests.data.conftest import make_episode
from wmpo_jax.data.collected import EpisodeWriter
writer = EpisodeWriter(Path(sys.argv[1]))
for number in range(10**6):
    print(writer.write([make_episode(number, 200)]), flush=True)
"""


def test_a_kill_leaves_whole_episodes_only(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    printed = [process.stdout.readline() for _ in range(5)]
    time.sleep(0.01)
    process.kill()
    printed += process.stdout.read().splitlines()
    process.wait()
    dataset = open_dataset(tmp_path)
    assert dataset.bad == [] and len(dataset.episodes) >= len(printed) >= 5
    for entry in dataset.episodes:
        number = int(dataset.source.info(entry.index).name.rpartition("_")[2])
        again = read_episode(dataset.source, entry.index)
        np.testing.assert_array_equal(again.frames_FHWC, make_episode(number, 200).frames_FHWC)


def test_repeated_work_replaces_its_own(tmp_path, episodes):
    writer = EpisodeWriter(tmp_path)
    for _ in range(2):
        writer.write(episodes[:2])
        writer.write(episodes[2:])
    assert len(open_dataset(tmp_path).episodes) == len(episodes)


def test_from_arrays(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (3, 5, 8, 8, 3), dtype=np.uint8)
    actions = np.linspace(0, 1, 24).reshape(3, 4, 2)
    made = from_arrays(
        frames,
        actions,
        ["a", "b", "a"],
        np.array([True, False, True]),
        np.array([3, 4, 2]),
        np.array([7, 7, 8]),
        source="demos",
        fps=10.0,
    )
    EpisodeWriter(tmp_path).write(made)
    source = open_dataset(tmp_path).source
    infos = [source.info(index) for index in range(3)]
    assert [info.name for info in infos] == ["demos_7_0", "demos_7_1", "demos_8_0"]
    assert [(i.success, i.finish_step, i.seed) for i in infos] == [
        (True, 3, 7),
        (False, 4, 7),
        (True, 2, 8),
    ]
    np.testing.assert_array_equal(read_episode(source, 1).frames_FHWC, frames[1])
    np.testing.assert_array_equal(infos[2].actions_NA, actions[2].astype(np.float32))
