"""The tables of stage diagnose, from made-up episodes."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.report.fake_workdir import fake_workdir
from wmpo_jax.assembly.diagnosis import report
from wmpo_jax.report.ladder import ladder_tables
from wmpo_jax.report.page import write_report
from wmpo_jax.report.record import read_run
from wmpo_jax.runtime.files import save_record

N, T = 40, 5


def ladder() -> Any:
    """Reality succeeds in the first 30 of 40 episodes, the anchored rung in 20, imagination in 10
    of which the reward model sees 15."""
    frames = np.full((N, T, 4, 4, 3), 100, np.uint8)
    geoms = np.zeros((N, T, 4, 4), np.int8)
    geoms[..., 0, 0] = 1
    wrong = frames.copy()
    wrong[:, 1:, 0, 0] += 51  # a fifth of the range, on the tip alone
    first = np.arange(N)
    true = SimpleNamespace(
        frames_BTHWC=frames, geom_BTHW=geoms, success_B=first < 10, miss_B=first / 100.0
    )
    played = {
        name: SimpleNamespace(frames_BTHWC=wrong, success_B=first < count)
        for name, count in (("camera", 30), ("reconstructed", 30), ("anchored", 20))
    }
    return SimpleNamespace(
        **played,
        imagined=SimpleNamespace(frames_BTHWC=wrong, success_B=first < 15),
        true_camera=true,
        true_anchored=true,
        true_imagined=true,
        reconstructed_BTHWC=frames,
    )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = fake_workdir(tmp_path_factory.mktemp("run"))
    result = {"policies": {"base": report(ladder(), ("table", "tip"))}, "seconds": 1.0}
    save_record(path / "stages" / "diagnose.json", result)
    return path


def test_rungs_say_where_success_is_lost(workdir):
    tables = dict(ladder_tables(read_run(workdir)))
    rows = [row[:3] for row in tables["Rungs, base policy"].rows]
    assert [(rate.split()[0], change) for _, rate, change in rows] == [
        ("75.0", "\N{EN DASH}"),
        ("75.0", "+0.0"),
        ("50.0", "-25.0"),
        ("25.0", "-25.0"),
        ("37.5", "+12.5"),
    ]


def test_errors_are_those_of_the_wrong_pixels(workdir):
    tables = dict(ladder_tables(read_run(workdir)))
    (tip,) = [
        row for row in tables["PSNR in each thing's mask, base policy, dB"].rows if "tip" in row
    ]
    assert tip[2] == "14.0 (6.2 %, 100.0 %)"


def test_rates_by_miss_fall_where_reality_does(workdir):
    table = dict(ladder_tables(read_run(workdir)))["Imagined and real success by miss, base policy"]
    assert [row[1:] for row in table.rows[:4]] == [
        ("5", "100.0", "100.0"),
        ("5", "100.0", "100.0"),
        ("5", "0.0", "100.0"),
        ("5", "0.0", "0.0"),
    ]


def test_the_page_shows_them(workdir):
    text = write_report(workdir).read_text()
    assert "frames predicted one chunk ahead" in text
