"""The task of a config as far as programs depend on it, without its simulator."""

from ml_collections import ConfigDict

from wmpo_jax.assembly import networks
from wmpo_jax.assembly.environment import make_task
from wmpo_jax.envs.libero.benchmark import HORIZONS, language, task_names
from wmpo_jax.envs.mimicgen.benchmark import TASKS
from wmpo_jax.envs.recorded import RecordedTask
from wmpo_jax.runtime.errors import UserError


def planned_task(config: ConfigDict) -> RecordedTask:
    """Chunk and action are those of the policy, instructions and horizon the benchmark's.

    Raises:
      UserError: config.task is of no benchmark that plans know.
    """
    if "networks" not in config:
        return _own_task(config)
    instructions, horizon = _benchmark(config)
    policy = networks.released(config, "policy")
    section = config.get("libero") or config.get("mimicgen", {})
    horizon = section.get("horizon", 0) or horizon
    return RecordedTask(
        instructions=instructions,
        action_dim=policy.action_dim,
        horizon=-(-horizon // policy.chunk) * policy.chunk,
        chunk=policy.chunk,
        image_size=config.image_size,
        name=config.task,
    )


def _own_task(config: ConfigDict) -> RecordedTask:
    """Of tiny networks, which fit whatever task there is."""
    task = make_task(config)
    return RecordedTask(
        instructions=task.instructions,
        action_dim=task.action_dim,
        horizon=task.horizon,
        chunk=task.chunk,
        image_size=task.image_size,
        name=task.name,
    )


def _benchmark(config: ConfigDict) -> tuple[tuple[str, ...], int]:
    """(instructions, actions of an episode)."""
    suite = config.task
    if suite in HORIZONS:
        tasks = config.libero.tasks or range(len(task_names(suite)))
        return tuple(language(suite, task) for task in tasks), HORIZONS[suite]
    if suite in TASKS:
        return (TASKS[suite].instruction,), TASKS[suite].horizon
    known = ", ".join([*HORIZONS, *TASKS])
    raise UserError(f"config.task is {suite!r}; plans know {known}.")
