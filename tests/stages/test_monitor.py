"""Real checks that are resumed: the same record, the same best policy, nothing counted twice."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from tests.stages.fake_host import Lifts
from wmpo_jax.runtime.checkpoints import Checkpoints
from wmpo_jax.runtime.config import load_config
from wmpo_jax.runtime.files import load_arrays
from wmpo_jax.runtime.mesh import make_mesh
from wmpo_jax.runtime.workdir import Workdir
from wmpo_jax.stages import monitor
from wmpo_jax.stages.comparison import Compared
from wmpo_jax.stages.context import RunContext

N = 200
REAL = [0.3, 0.6, 0.59, 0.1, 0.1]  # success of the policy after each iteration


class Difficulty:
    """In place of `Comparison`: a policy is its success rate, in imagination always a bit more."""

    def __init__(self, context: Any, role: str, episodes: int, parts: Any) -> None:
        del context, role, parts
        self.seeds = np.arange(episodes)

    def batches(self, params: Any) -> Any:
        difficulty = np.arange(N) / N
        frames = np.zeros((N, 2, 1, 1, 3), np.uint8)
        real: Any = type("Real", (), {})()
        real.success_B, real.frames_BTHWC = difficulty < float(params["rate"]), frames
        imagined_B = difficulty < 0.9
        yield Compared(real, frames, imagined_B, imagined_B)


@pytest.fixture(autouse=True)
def without_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "Comparison", Difficulty)


def context_at(folder: Path) -> RunContext:
    config = load_config("configs/tiny.py:smoke", [f"monitor.episodes={N}"])
    return RunContext(config, Workdir(folder, config), make_mesh(config))


def watch(context: RunContext, first: int) -> tuple[monitor.RealMonitor, list[bool]]:
    """A process that restores iteration `first` and goes on until it is stopped."""
    parts: Any = None
    found, stops = monitor.RealMonitor(context, len(REAL) - 1, parts), []
    for iteration in range(first, len(REAL)):
        stops.append(found(iteration, {"rate": jnp.float32(REAL[iteration])})[1])
        if stops[-1]:
            break
    return found, stops


def test_the_alarm_sounds_and_the_best_policy_is_kept(tmp_path: Path) -> None:
    context = context_at(tmp_path)
    found, stops = watch(context, 0)
    assert stops == [False, False, False, True]
    assert found.choice().iteration == 1
    with Checkpoints(context.workdir.checkpoints(monitor.BEST)) as folder:
        assert folder.latest_step() == 1
        best = folder.restore_params({"rate": jnp.float32(0)}, 1)
    np.testing.assert_allclose(best["rate"], 0.6)
    (entry,) = context.workdir.ledger.read()
    assert (entry["name"], entry["episodes"]) == ("monitor", 4 * N)


@pytest.mark.parametrize("restored", [0, 1, 2, 3])
def test_a_killed_run_finds_the_same(tmp_path: Path, restored: int) -> None:
    context = context_at(tmp_path)
    before, _ = watch(context, 0)
    file = context.workdir.data("improve") / "checks.npz"
    expected = load_arrays(file, "improve")
    again, stops = watch(context, restored)
    assert stops[-1] and len(stops) == 4 - restored
    assert again.choice() == before.choice()
    found = load_arrays(file, "improve")
    assert expected.keys() == found.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
    with Checkpoints(context.workdir.checkpoints(monitor.BEST)) as folder:
        assert folder.latest_step() == 1
    assert context.workdir.ledger.read()[0]["episodes"] == 4 * N


def test_checks_are_on_where_mjx_simulates_and_elsewhere_by_declaration(tmp_path: Path) -> None:
    context = context_at(tmp_path)
    assert monitor.monitored(context)
    simulator: Any = Lifts()
    for budget, host in ((-1, False), (0, False), (10_000, True)):
        context.config.monitor.budget = budget
        vars(context)["env"] = simulator
        assert monitor.monitored(context) == host
