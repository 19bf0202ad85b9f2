"""The task of a config: an environment, or what its datasets on disk say of it."""

import jax
from ml_collections import ConfigDict

from wmpo_jax.data.mixture import Mixture, open_section
from wmpo_jax.envs import registry
from wmpo_jax.envs.protocol import Environment, HostEnvironment
from wmpo_jax.envs.recorded import RecordedTask
from wmpo_jax.runtime.schema import REMOTE


def make_task(config: ConfigDict) -> Environment | HostEnvironment:
    """The environment that config.task names; UserError when there is none like it.

    A served policy (config.task = "remote") acts in that of config.remote.
    """
    sections = ("libero", "mimicgen", "playground")
    options = next((config[name] for name in sections if name in config), {})
    name = config.remote.environment if config.task == REMOTE else config.task
    # The first to ask may be a traced function; the arrays of the scene must not be traced.
    with jax.ensure_compile_time_eval():
        return registry.make_reality(name, config.image_size, options)


def open_data(config: ConfigDict) -> Mixture | None:
    """The datasets on disk to train from; None when the run makes its own episodes."""
    section = config.get("data")
    return None if section is None else open_section(section)


def recorded_task(config: ConfigDict, mixture: Mixture) -> RecordedTask:
    """The task of a run that has a dataset and no environment."""
    chunk = config.data.chunk
    longest = max(e.steps for dataset in mixture.datasets for e in dataset.episodes)
    return RecordedTask(
        instructions=mixture.instructions,
        action_dim=mixture.action_dim,
        horizon=longest // chunk * chunk,
        chunk=chunk,
        image_size=config.image_size,
    )
