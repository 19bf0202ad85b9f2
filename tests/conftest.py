"""Tests run on the CPU: libtpu, which plans are compiled with, would go looking for chips."""

import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.stages.processes import finish, start

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("WMPO_TRANSFER_GUARD", "disallow")  # see runtime.mesh.transfer_guard
# Tests build the same small networks again and again: a fifth of their time was compilation of
# programs that had been compiled before. The folder is the one that runs use.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path("~/.cache/wmpo_jax/xla").expanduser()))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pods", action="store_true", help="also compile all programs of pods")


SMOKE = ("test_notebooks.py", "test_cycle.py", "test_trusted_cycle.py")  # share the smoke run


class ByFile(LoadScopeScheduling):
    """With -n a worker takes whole files, whose tests share what is costly to make.

    (The marks of --dist=loadgroup, which would say the same, are lost with pytest 9.2.)
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "smoke" if Path(file).name in SMOKE else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    config.option.loadscopereorder = False  # the smoke run is long, and first in the alphabet
    return ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--pods"):
        skip = pytest.mark.skip(reason="takes an hour; --pods runs it")
        for item in items:
            if "pods" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """What a test does to os.environ ends with it.

    `environment.prepare` sets XLA_FLAGS; the processes that later tests start would inherit them,
    and with them another number of devices.
    """
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a whole smoke run, shared by all tests that only read it."""
    workdir = tmp_path_factory.mktemp("smoke") / "run"
    status, errors = finish(start(f"--workdir={workdir}"))
    assert status == 0, errors
    return workdir
