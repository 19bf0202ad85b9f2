"""Every command and code block of the documents is executed, or the reason why not is here."""

import re
import shlex

import pytest

from tests.data.conftest import throwaway_cache
from tests.docs.documents import PAGES, ROOT, blocks, commands
from wmpo_jax.data import formats
from wmpo_jax.envs import registry
from wmpo_jax.runtime.config import load_config
from wmpo_jax.stages.pipeline import REPORT, STAGES

__all__ = ["throwaway_cache"]  # used by pytest

# What a command begins with or calls -> where it is executed, or why it is not.
ELSEWHERE = {
    "bash launch/setup.sh": ".ci/run",
    "bash .ci/run": "not here: it is what executes this",
    ".venv/bin/pytest": ".ci/run",
    "-m wmpo_jax.main": "tests/stages/test_cycle.py",
    "-m wmpo_jax.data inspect": "tests/data/test_inspection.py",
    "-m wmpo_jax.data convert": "tests/data/test_inspection.py",
    "-m wmpo_jax.data openx": "tests/data/test_openx.py",
    "-m wmpo_jax.plan": "tests/planning/test_plan.py",
    "-m wmpo_jax.convert": "tests/conversion/test_round_trip.py",
    "-m wmpo_jax.play": "tests/drive/test_session.py",
    "-m wmpo_jax.serve": "tests/serving/test_server.py",
    "-m tests.serving.openpi": ".ci/run",
    "benchmarks.served_policy": "not here: a measurement with a finished run",
    "-m benchmarks.table": "tests/report/test_table.py",
    "-m wmpo_jax.report.collate": "tests/report/test_collate.py",
    "-m wmpo_jax.report.compare": "tests/report/test_compare.py",
    "-m wmpo_jax.runtime.selfcheck": "tests/runtime/test_selfcheck.py",
    "examples/real_robot.py": "tests/examples/test_real_robot.py",
    "-m wmpo_jax.benchmark": "tests/benchmark/test_command.py",
    "bash benchmarks/gpu.sh": "not here: takes a GPU, or half an hour of a CPU",
    "-m wmpo_jax.envs.libero.golden": "tests/envs/libero/test_golden.py",
    "benchmarks/libero_pool.py": "not here: a measurement that takes a quiet machine",
    "benchmarks/data_windows.py": "not here: a measurement of half a minute",
    "benchmarks.two_hosts": "not here: two whole runs; test_two_hosts.py has small ones",
    "benchmarks.faults": "not here: ten minutes of runs; tests/runtime has each kind",
    "benchmarks.libero_mjx": "not here: half an hour; test_fidelity.py has one short episode",
    "benchmarks.playground": "not here: needs MuJoCo Playground, which the lock does not have",
    "docs/screenshots.py": "not here: needs a Chromium",
    "bash launch/release.sh": "not here: needs the network and ten minutes",
    "pip install": "not here: changes the environment that the tests run in",
    "pre-commit install": "not here: changes the clone that the tests run in",
}
COMMANDS = sorted({command for page in PAGES for command in commands(page)})
PYTHON = [page for page in PAGES if any(b.kind == "python" for b in blocks(page))]


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: page.name)
def test_code_of_a_page_runs_from_top_to_bottom(page, monkeypatch):
    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))
    monkeypatch.setattr(formats, "SOURCES", dict(formats.SOURCES))
    monkeypatch.setattr(formats, "_SIGNS", dict(formats._SIGNS))
    names: dict = {}
    for block in blocks(page):
        if block.kind == "python" and block.why is None:
            padded = "\n" * block.line + block.code  # so that errors name the line of the page
            exec(compile(padded, str(page), "exec"), names)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_executed_somewhere_or_it_is_said_why_not(command):
    found = [name for name in ELSEWHERE if name in command]
    assert len(found) == 1, f"{command}: add it to ELSEWHERE, with the place that executes it"
    place = ELSEWHERE[found[0]]
    assert place.startswith("not here: ") or (ROOT / place).is_file()


def test_no_place_is_kept_for_a_command_that_is_gone():
    assert [name for name in ELSEWHERE if not any(name in command for command in COMMANDS)] == []


@pytest.mark.parametrize("command", [c for c in COMMANDS if "-m wmpo_jax.main" in c])
def test_config_flags_and_stages_of_a_run_exist(command):
    flags = dict(word.split("=", 1) for word in shlex.split(command) if word.startswith("--"))
    spec = str(ROOT / flags.pop("--config"))
    overrides = [f"{k.removeprefix('--config.')}={v}" for k, v in flags.items() if "config." in k]
    load_config(spec, overrides)
    stages = flags.get("--stages", "demos").split(",")
    assert set(stages) <= {*STAGES, REPORT}
    assert {k for k in flags if "config." not in k} <= {"--workdir", "--stages", "--base"}


def test_every_link_between_pages_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links {target}"
