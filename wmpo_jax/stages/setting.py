"""What every stage is given: the config, the task, the folder, the devices."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.envs import registry
from wmpo_jax.envs.protocol import Environment
from wmpo_jax.runtime.files import load_arrays, load_json
from wmpo_jax.runtime.metrics import MetricWriter
from wmpo_jax.runtime.workdir import Workdir
from wmpo_jax.stages.seeds import key_for


@dataclass(frozen=True)
class Setting:
    """The surroundings of a stage."""

    config: ConfigDict
    workdir: Workdir
    mesh: Mesh

    @cached_property
    def env(self) -> Environment:
        return registry.make(self.config.task, self.config.image_size)

    @property
    def num_chunks(self) -> int:
        """Chunks in an episode."""
        return self.env.horizon // self.env.chunk

    @cached_property
    def statistics(self) -> ActionStatistics:
        """Those of the demonstrations; every stage normalises actions by them."""
        return ActionStatistics.from_json(load_json(self.statistics_file))

    @property
    def statistics_file(self) -> Path:
        return self.workdir.data("demos") / "statistics.json"

    def key(self, name: str) -> jax.Array:
        """The PRNG key of one user of randomness."""
        return key_for(name, self.config.seed)

    def episodes(self, name: str, stage: str) -> dict:
        """Arrays of data/<name>/episodes.npz, which `stage` wrote."""
        return load_arrays(self.workdir.data(name) / "episodes.npz", stage)

    def metrics(self, name: str, resume_step: int) -> MetricWriter:
        board, writers = self.config.tensorboard, self.config.get("writers", "")
        return MetricWriter(self.workdir.metrics, name, resume_step, board, writers)
