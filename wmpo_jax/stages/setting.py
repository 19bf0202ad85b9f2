"""What every stage is given: the config, the task, the folder, the devices."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from wmpo_jax.data.loading import WindowLoader, WindowSpec
from wmpo_jax.data.mixture import Mixture, open_section
from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.envs import registry
from wmpo_jax.envs.protocol import Environment, HostEnvironment, StoresStarts
from wmpo_jax.envs.recorded import RecordedTask
from wmpo_jax.runtime.files import load_arrays, load_json
from wmpo_jax.runtime.mesh import host_rows
from wmpo_jax.runtime.metrics import MetricWriter
from wmpo_jax.runtime.workdir import Workdir
from wmpo_jax.stages.seeds import key_for, seed_range


@dataclass(frozen=True)
class Setting:
    """The surroundings of a stage."""

    config: ConfigDict
    workdir: Workdir
    mesh: Mesh

    @cached_property
    def env(self) -> Environment | HostEnvironment:
        """The task of the config; without a name, what a dataset on disk says of it."""
        if self.mixture is None or self.config.task:
            # The first to ask may be a traced function; the arrays of the scene must not be traced.
            with jax.ensure_compile_time_eval():
                return make_task(self.config)
        chunk = self.config.data.chunk
        longest = max(e.steps for dataset in self.mixture.datasets for e in dataset.episodes)
        return RecordedTask(
            instructions=self.mixture.instructions,
            action_dim=self.mixture.action_dim,
            horizon=longest // chunk * chunk,
            chunk=chunk,
            image_size=self.config.image_size,
        )

    @cached_property
    def mixture(self) -> Mixture | None:
        """The datasets on disk to train from; None when the run makes its own episodes."""
        section = self.config.get("data")
        return None if section is None else open_section(section)

    def loader(self, name: str, spec: WindowSpec, batch_size: int, *, clip: bool) -> WindowLoader:
        """Batches of `mixture` for one user of randomness, this host's rows of them."""
        assert self.mixture is not None
        return WindowLoader(
            self.mixture,
            spec,
            batch_size,
            int(jax.random.bits(self.key(name))),
            image_size=self.env.image_size,
            instructions=self.env.instructions,
            clip=clip,
            rows=host_rows(self.mesh, batch_size),
        )

    @cached_property
    def kept(self) -> dict[str, Any]:
        """Large things that several loaders ask for and that are made once."""
        return {}

    @property
    def num_chunks(self) -> int:
        """Chunks in an episode."""
        return self.env.horizon // self.env.chunk

    @cached_property
    def statistics(self) -> ActionStatistics:
        """Those of the demonstrations; every stage normalizes actions by them."""
        return ActionStatistics.from_json(load_json(self.statistics_file))

    @property
    def statistics_file(self) -> Path:
        return self.workdir.data("demos") / "statistics.json"

    def key(self, name: str) -> jax.Array:
        """The PRNG key of one user of randomness."""
        return key_for(name, self.config.seed)

    def starts(self, role: str, start: int, count: int) -> np.ndarray:
        """int32 [count]: initial states that nobody else uses; see `stages.seeds`.

        Where a benchmark stores initial states, those are the evaluation's.
        """
        if role == "evaluation" and isinstance(self.env, StoresStarts):
            return self.env.held_out(start, count)
        return seed_range(role, self.config.seed, start, count)

    def provenance(self) -> dict[str, Any]:
        """How real episodes were set up and simulated, where the config does not say it all."""
        if not isinstance(self.env, HostEnvironment):
            return {}
        return {"protocol": self.env.protocol(), "simulation": self.env.report()}

    def episodes(self, name: str, stage: str) -> dict:
        """Arrays of data/<name>/episodes.npz, which `stage` wrote."""
        return load_arrays(self.workdir.data(name) / "episodes.npz", stage)

    def metrics(self, name: str, resume_step: int) -> MetricWriter:
        board, writers = self.config.tensorboard, self.config.get("writers", "")
        return MetricWriter(self.workdir.metrics, name, resume_step, board, writers)


def make_task(config: ConfigDict) -> Environment | HostEnvironment:
    """The environment that config.task names; UserError when there is none like it."""
    options = config.get("libero") or config.get("mimicgen", {})
    return registry.make_reality(config.task, config.image_size, options)
