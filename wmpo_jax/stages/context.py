"""What every stage is given: the config, the workdir, the devices, and what is built from them."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from wmpo_jax.assembly import networks
from wmpo_jax.assembly.environment import make_task, open_data, recorded_task
from wmpo_jax.assembly.real import Player, RealEnvironment
from wmpo_jax.assembly.seeds import BLOCK, key_for, seed_range
from wmpo_jax.assembly.trained import TrainedRun, round_name, rounds_of
from wmpo_jax.data.loading import WindowLoader, WindowSpec
from wmpo_jax.data.mixture import Mixture
from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.envs.protocol import Environment, HostEnvironment, StoresStarts
from wmpo_jax.runtime.checkpoints import Checkpoints
from wmpo_jax.runtime.files import load_arrays
from wmpo_jax.runtime.mesh import host_rows
from wmpo_jax.runtime.metrics import MetricWriter
from wmpo_jax.runtime.workdir import Workdir
from wmpo_jax.training.fit import LoopFiles, Stream
from wmpo_jax.training.state import abstract

# What every file of episodes has; one without them is of an older version.
EPISODE_ARRAYS = ("frames_BTHWC", "instruction_id_B", "success_B", "finish_step_B")


@dataclass(frozen=True)
class RunContext:
    """Seen by stages only: they read from it what a function needs, and pass that on.

    Attributes:
      round: of the lifelong loop, from 1 on; later ones have names of their own for all they leave.
    """

    config: ConfigDict
    workdir: Workdir
    mesh: Mesh
    round: int = 1

    def in_round(self, number: int) -> "RunContext":
        """The same run in another round; it shares the environment."""
        other = dataclasses.replace(self, round=number)
        shared = {name: vars(self)[name] for name in ("env", "mixture") if name in vars(self)}
        vars(other).update(shared)
        return other

    def named(self, name: str) -> str:
        """What a stage leaves in this round is called, such as `improve` and `improve_2`."""
        return round_name(name, self.round)

    @cached_property
    def env(self) -> Environment | HostEnvironment:
        """The task of the config; without a name, what a dataset on disk says of it."""
        if self.mixture is None or self.config.task:
            return make_task(self.config)
        return recorded_task(self.config, self.mixture)

    @cached_property
    def mixture(self) -> Mixture | None:
        """The datasets on disk to train from; None when the run makes its own episodes."""
        return open_data(self.config)

    @cached_property
    def trained(self) -> TrainedRun:
        """What earlier stages have trained."""
        return TrainedRun(self.config, self.workdir, self.mesh, self.env, self.round)

    @cached_property
    def real(self) -> RealEnvironment:
        """The real environment."""
        return RealEnvironment(self.env, self.mesh, self.workdir.path)

    @property
    def statistics(self) -> ActionStatistics:
        """Those of the demonstrations; every stage normalizes actions by them."""
        return self.trained.statistics

    def player(self, statistics: ActionStatistics | None = None) -> Player:
        """How the run's policy acts in the real environment, at the training temperature."""
        return self.real.player(
            self.trained.policy, self.config.policy.temperature, statistics or self.statistics
        )

    def stream(self, name: str, spec: WindowSpec, batch_size: int, *, clip: bool) -> Stream:
        """Batches of `mixture` for one user of randomness, this host's rows of them."""
        assert self.mixture is not None
        loader = WindowLoader(
            self.mixture,
            spec,
            batch_size,
            int(jax.random.bits(self.key(name))),
            image_size=self.env.image_size,
            instructions=self.env.instructions,
            clip=clip,
            rows=host_rows(self.mesh, batch_size),
        )
        return Stream(loader)

    def key(self, name: str) -> jax.Array:
        """The PRNG key of one user of randomness in this round."""
        return key_for(self.named(name), self.config.seed)

    def starts(self, role: str, start: int, count: int) -> np.ndarray:
        """int32 [count]: initial states that nobody else uses; see `assembly.seeds`.

        Where a benchmark stores initial states, those are the evaluation's.
        """
        if role == "evaluation" and isinstance(self.env, StoresStarts):
            return self.env.held_out(start, count)
        return seed_range(role, self.config.seed, start, count)

    def round_starts(self, role: str, start: int, count: int) -> np.ndarray:
        """`starts` that no other round of the lifelong loop uses."""
        return self.starts(role, (self.round - 1) * (BLOCK // self.rounds) + start, count)

    @property
    def rounds(self) -> int:
        """Of the lifelong loop in all; 1 without it."""
        return rounds_of(self.config)

    @property
    def last_round(self) -> "RunContext":
        """Whose models and policy are the result of the run."""
        return self.in_round(self.rounds)

    def provenance(self) -> dict[str, Any]:
        """How real episodes were set up and simulated, where the config does not say it all."""
        if not isinstance(self.env, HostEnvironment):
            return {}
        return {"protocol": self.env.protocol(), "simulation": self.env.report()}

    def episodes(self, name: str, stage: str) -> dict:
        """Arrays of data/<name>/episodes.npz, which `stage` wrote."""
        return load_arrays(self.workdir.data(name) / "episodes.npz", stage, EPISODE_ARRAYS)

    def begin(
        self, role: str, build: Callable[[], Any], earlier: Callable[[TrainedRun], Any]
    ) -> tuple[Any, Any]:
        """(graphdef, params) that training of a network begins with.

        Args:
          role: of the network, as in `networks.weights`.
          build: makes the network.
          earlier: its parameters in a run; later rounds go on from those of the round before.
        """
        if self.round == 1:
            return networks.create(self.config, self.mesh, role, build)
        graphdef, _ = abstract(self.mesh, build)
        return graphdef, earlier(self.in_round(self.round - 1).trained)

    def loop_files(self, name: str) -> LoopFiles:
        """Where the training loop of stage `name` saves and logs in this round."""
        name = self.named(name)
        return LoopFiles(
            name,
            Checkpoints(self.workdir.checkpoints(name)),
            lambda resume_step: self._metrics(name, resume_step),
        )

    def _metrics(self, name: str, resume_step: int) -> MetricWriter:
        board, writers = self.config.tensorboard, self.config.get("writers", "")
        return MetricWriter(self.workdir.metrics, name, resume_step, board, writers)
