"""Ctrl-C in a command: exit status 130 and at most a sentence, whatever is going on."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "wmpo_jax.main": ["--config=configs/tiny.py:smoke", "--workdir=none", "--base=none"],
    "wmpo_jax.convert": ["import", "--kind=policy", "--source=none", "--target=none"],
    "wmpo_jax.data": ["inspect", "none"],
    "wmpo_jax.plan": ["--topology=80GB:1"],
    "wmpo_jax.play": ["--workdir=none", "--port=0"],
    "wmpo_jax.report.collate": ["none", "none"],
    "wmpo_jax.report.compare": ["none", "none", "none"],
    "wmpo_jax.runtime.selfcheck": [],
    "wmpo_jax.envs.libero.golden": ["--suites"],
}


@pytest.mark.parametrize("module", COMMANDS)
@pytest.mark.parametrize("moment", ["wmpo_jax.runtime.interrupts", "numpy._core"])
def test_during_imports(module: str, moment: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", module, *COMMANDS[module]]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while not (line := process.stderr.readline()).rstrip().endswith(moment):
        assert line, "it ended before it imported that"
    time.sleep(0.05)  # one of the next modules
    process.send_signal(signal.SIGINT)
    errors = process.stderr.read()  # communicate would lose what readline has buffered
    process.wait(timeout=60)
    said = [line for line in errors.splitlines() if not line.startswith("import time:")]
    # A shell reports 130 of a process that the signal itself ended, too: one that was at its end.
    assert process.returncode in (130, -signal.SIGINT)
    assert said == []


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "ImportError('of a library')", "None"])
def test_during_work(error: str, tmp_path: Path) -> None:
    """What is half written goes, whatever a library makes of the interrupt on its way."""
    program = f"""
import pathlib, sys, time
from wmpo_jax.runtime import interrupts
def main(argv):
    interrupts.raise_from_now_on()
    half = pathlib.Path("half")
    half.touch()
    try:
        print("working", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        if {error} is not None: raise {error}
    finally:
        half.unlink()
    return 0
interrupts.exit_at_once()
sys.exit(interrupts.run(main))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    swallowed = error == "None"  # the work went on to its end
    ended = (0, "") if swallowed else (130, "wmpo_jax: stopped by Ctrl-C\n")
    assert (process.returncode, errors) == ended
    assert list(tmp_path.iterdir()) == []


def test_a_second_one_ends_a_busy_process() -> None:
    program = (
        "import sys, time\nfrom wmpo_jax.runtime import interrupts\ninterrupts.exit_at_once()\n"
        "interrupts.raise_from_now_on()\n"
        "while True:\n  try:\n    print('on', flush=True); time.sleep(60)\n"
        "  except KeyboardInterrupt:\n    pass\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(2):
        assert process.stdout.readline() == "on\n"
        process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
