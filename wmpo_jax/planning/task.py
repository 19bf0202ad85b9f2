"""The task of a config as far as programs depend on it, without its simulator."""

from ml_collections import ConfigDict

from wmpo_jax.assembly import networks
from wmpo_jax.envs.libero.benchmark import HORIZONS
from wmpo_jax.envs.mimicgen.benchmark import TASKS
from wmpo_jax.envs.recorded import RecordedTask
from wmpo_jax.runtime.errors import UserError

# As long as the benchmarks' longer ones; programs depend on its number of tokens alone.
INSTRUCTION = "pick up the black bowl next to the plate and place it on the plate"


def planned_task(config: ConfigDict) -> RecordedTask:
    """Sizes of the task; chunk and action are those of the policy, the horizon the benchmark's.

    Raises:
      UserError: config.task has no known horizon.
    """
    policy = networks.released(config, "policy")
    section = config.get("libero") or config.get("mimicgen", {})
    horizon = section.get("horizon", 0) or _horizon(config.task)
    return RecordedTask(
        instructions=(INSTRUCTION,),
        action_dim=policy.action_dim,
        horizon=-(-horizon // policy.chunk) * policy.chunk,
        chunk=policy.chunk,
        image_size=config.image_size,
        name=config.task,
    )


def _horizon(task: str) -> int:
    if task in HORIZONS:
        return HORIZONS[task]
    if task in TASKS:
        return TASKS[task].horizon
    known = ", ".join([*HORIZONS, *TASKS])
    raise UserError(f"config.task is {task!r}; plans know the horizons of {known}.")
