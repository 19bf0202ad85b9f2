"""Square runs as robosuite ships it; the other tasks say what they lack."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wmpo_jax.envs import registry
from wmpo_jax.envs.mimicgen.benchmark import TASKS
from wmpo_jax.envs.mimicgen.env import EVALUATION_SEED, MimicgenEnv
from wmpo_jax.envs.protocol import HostEnvironment
from wmpo_jax.envs.robosuite import environment
from wmpo_jax.runtime.config import load_config
from wmpo_jax.runtime.errors import UserError

OPTIONS = {"horizon": 16, "workers": 1, "wave": 2}
MIMICGEN = [name for name, task in TASKS.items() if task.mimicgen]
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def square():
    env = MimicgenEnv("robosuite_square", 64, OPTIONS)
    yield env
    env.close()


@pytest.mark.slow
def test_square_is_played(square):
    """Two starts differ, equal actions from equal starts give equal frames, and things move."""
    starts = np.array([0, 1], np.int32)
    actions = np.zeros((2, 8, 7))
    actions[..., 2], actions[..., 6] = -0.5, 1.0
    first = np.asarray(square.reset(starts).frame_BHWC)
    seen, outcome = square.step(actions, videos=True)
    again = np.asarray(square.reset(starts).frame_BHWC)
    seen_again, _ = square.step(actions, videos=True)
    assert first.shape == (2, 64, 64, 3) and first.std() > 10
    assert (first[0] != first[1]).any()
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(seen.frame_BHWC, seen_again.frame_BHWC)
    assert (np.asarray(seen.frame_BHWC) != first).any(axis=(1, 2, 3)).all()
    assert outcome.frames_BKHWC.shape == (2, 8, 64, 64, 3)
    assert not outcome.success_BK.any() and not outcome.invalid_B.any()
    assert square.protocol()["packages"].keys() == {"robosuite", "mujoco"}


def test_evaluation_has_starts_of_its_own(square):
    held_out = square.held_out(0, 128)
    seeds = {square._start(int(start)).seed for start in held_out}
    assert len(seeds) == 128 and min(seeds) >= EVALUATION_SEED
    assert square._start(7).seed == 7
    assert isinstance(square, HostEnvironment)


def test_a_scripted_demonstration_is_refused(square):
    with pytest.raises(UserError, match=r"config\.data\.source"):
        square.record(np.array([0]), "expert", 0.0)


@pytest.mark.parametrize("name", MIMICGEN)
def test_without_mimicgen_one_sentence_says_how(name):
    if list(environment.folder().glob("lib/python3*/site-packages/mimicgen*")):
        pytest.skip("MimicGen is installed")
    env = registry.make_reality(name, 64, OPTIONS)
    assert isinstance(env, MimicgenEnv)
    with pytest.raises(UserError, match=r"git\+https://github\.com/NVlabs/mimicgen"):
        env.reset(np.array([0], np.int32))


@pytest.mark.parametrize("name", MIMICGEN)
def test_pages_agree_with_the_tasks(name):
    config = load_config(str(ROOT / f"configs/{name}.py"))
    assert config.task == name
    assert TASKS[name].horizon // 8 % config.improve.micro_chunks == 0


def test_pages_are_read_from_an_installed_package(tmp_path):
    """As a wheel has them: beside the package's folders, with no clone in sight."""
    package = tmp_path / "site" / "wmpo_jax"
    package.mkdir(parents=True)
    for part in (ROOT / "wmpo_jax").iterdir():
        (package / part.name).symlink_to(part)
    shutil.copytree(ROOT / "configs", package / "configs")
    program = (
        "from wmpo_jax.runtime.config import load_config as load; "
        "print(*(load(f'configs/{name}.py', []).task for name in __import__('sys').argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, *MIMICGEN],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == MIMICGEN


@pytest.mark.parametrize("name", MIMICGEN)
def test_an_imported_policy_sees_the_simulators_frames_as_they_are(name):
    config = load_config(str(ROOT / f"configs/{name}.py"))
    section = config.evaluate_imported
    assert (section.jpeg, section.lanczos_resize) == (False, False)
    assert section.statistics == config.networks.statistics
    assert load_config(str(ROOT / "configs/libero.py")).evaluate_imported.lanczos_resize
