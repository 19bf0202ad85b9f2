"""What is measured when a benchmark is measured: one frozen object, whose hash each result carries.

Two success rates may be compared if and only if their hashes agree.
"""

import dataclasses
import hashlib
import json
from typing import Any, ClassVar

from wmpo_jax.envs.robosuite import environment


@dataclasses.dataclass(frozen=True)
class EvaluationProtocol:
    """How an episode is set up, shown and scored.

    Attributes:
      suite: the benchmark's name of it.
      tasks: numbers of the suite's tasks, in its own order.
      settle_steps: control steps of standing still before the policy's first observation.
      horizon: actions that may bring success; later ones are not executed.
      chunk: actions executed between two observations.
      image_size: height and width at which the camera renders, pixels.
      camera: the simulator's name of it.
      rotation: degrees by which the picture is turned.
      reset_seed: NumPy's seed before the reset that precedes a stored initial state; it decides
        where fixtures stand, which initial states do not hold.
      success: the rule.
      worker: the module that simulates it, run in an environment of its own.
      packages: what decides about physics and pixels there.
    """

    worker: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]

    suite: str
    tasks: tuple[int, ...]
    horizon: int
    chunk: int = 8
    image_size: int = 256
    settle_steps: int = 10
    camera: str = "agentview"
    rotation: int = 0
    reset_seed: int = 0
    success: str = ""

    def describe(self) -> dict[str, Any]:
        """JSON fields, with the versions that simulate."""
        return dataclasses.asdict(self) | {"packages": environment.versions(self.packages)}

    def digest(self) -> str:
        """sha256 of `describe`."""
        return hashlib.sha256(json.dumps(self.describe(), sort_keys=True).encode()).hexdigest()
