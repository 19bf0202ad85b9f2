"""What a run has trained, read from its workdir: parameters alone, no optimizer."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from wmpo_jax.agents.autoencoder import FrameAutoencoder
from wmpo_jax.agents.policy import Policy, joined
from wmpo_jax.agents.reward_model import VideoRewardModel
from wmpo_jax.agents.world_model import VideoWorldModel
from wmpo_jax.algorithm.imagination import ImaginedDynamics
from wmpo_jax.algorithm.protocols import Observation
from wmpo_jax.algorithm.rollout import rollout_groups, without_contradicted
from wmpo_jax.algorithm.trajectory import Experience
from wmpo_jax.assembly import agents, networks
from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.envs.protocol import Environment, HostEnvironment
from wmpo_jax.models.vla.action_tokens import decode
from wmpo_jax.runtime import sharding
from wmpo_jax.runtime.checkpoints import Checkpoints
from wmpo_jax.runtime.files import load_record
from wmpo_jax.runtime.workdir import Workdir
from wmpo_jax.training import state
from wmpo_jax.training.grpo import GRPOConfig

# World model, reward model and threshold: a pytree that can be given to a jitted function.
ImaginedParts = tuple[VideoWorldModel, VideoRewardModel, jax.Array]


# Stages that the lifelong loop repeats in every round.
ROUND_STAGES = ("collect", "world_model", "reward", "improve")


@dataclass(frozen=True)
class TrainedRun:
    """The trained parts of a workdir; each is read when it is asked for.

    Attributes:
      round: of the lifelong loop, whose models and improved policy are meant.

    Raises:
      UserError: (from every method) the stage that trains the part has not ended.
    """

    config: ConfigDict
    workdir: Workdir
    mesh: Mesh
    task: Environment | HostEnvironment
    round: int = 1

    @cached_property
    def policy(self) -> Policy:
        """The policy without its weights."""
        return agents.policy(self.config, self.task)

    @cached_property
    def statistics(self) -> ActionStatistics:
        """Those of the demonstrations; every stage normalizes actions by them."""
        return ActionStatistics.from_json(load_record(statistics_file(self.workdir), "demos"))

    @cached_property
    def frozen_policy(self) -> Any:
        """What is not trained of a policy with adapters; None without adapters."""
        return networks.frozen_policy(self.config, self.mesh, self.policy.build)

    def policy_params(self, stage: str) -> Any:
        """Of the policy that `stage` has resulted in, such as "sft" or "improve".

        A result may be the policy of an earlier stage (`policy_of`).
        """
        return self._policy_at(*self.policy_of(stage))

    def policy_of(self, stage: str) -> tuple[str, int]:
        """The folder of checkpoints and the step that hold the policy of `stage`."""
        stage = self._named(stage)
        result = self.workdir.result(stage, ("step",))
        return tuple(result.get("policy", (stage, result["step"])))

    def first_policy(self) -> tuple[str, int]:
        """As `policy_of`: the policy that reinforcement begins with in this round."""
        if self.round == 1:
            return self.policy_of("sft")
        return self._before.policy_of("improve")

    def first_policy_params(self) -> Any:
        """Of `first_policy`."""
        return self._policy_at(*self.first_policy())

    def collecting_policy_params(self) -> Any:
        """Of the policy whose rollouts this round aligns on: the last one of reinforcement.

        Where that did worse than an earlier one, reinforcement goes on from the earlier one; but
        what the last one does is where the world model has to be corrected.
        """
        if self.round > 1:
            stage = self._before._named("improve")
            last = self.workdir.result(stage, ("step",))["step"]
            if last:  # 0: gates had stopped it
                return self._policy_at(stage, last)
        return self.first_policy_params()

    @property
    def _before(self) -> "TrainedRun":
        """The same of the round before."""
        return dataclasses.replace(self, round=self.round - 1)

    def _policy_at(self, folder: str, step: int) -> Any:
        shapes = networks.policy_shapes(self.config, self.mesh, self.policy.build)
        return joined(self._restored(folder, shapes, step), self.frozen_policy)

    def autoencoder(self) -> FrameAutoencoder:
        """With its scaling factor."""
        shapes = state.abstract(self.mesh, lambda: agents.autoencoder_network(self.config))[1]
        scale = self.workdir.result("autoencoder")["scaling_factor"]
        return agents.autoencoder(self.config, scale, self._params("autoencoder", shapes))

    def world_model_params(self) -> Any:
        """The averaged weights."""
        network = lambda: agents.world_model_network(self.config, self.task)  # noqa: E731
        return self._params("world_model", state.abstract(self.mesh, network)[1])

    def world_model(self) -> VideoWorldModel:
        """The averaged weights in their role."""
        params, frames = self.world_model_params(), self.autoencoder()
        return agents.world_model(self.config, self.task, params, frames)

    def reward_model(self) -> tuple[VideoRewardModel, float]:
        """With the threshold that the stage chose."""
        params = self.reward_model_params()
        threshold = self.workdir.result(self._named("reward"))["threshold"]
        return agents.reward_model(self.config, self.task, params), threshold

    def reward_model_params(self) -> Any:
        """Its weights alone."""
        network = lambda: agents.reward_network(self.config, self.task)  # noqa: E731
        return self._params("reward", state.abstract(self.mesh, network)[1])

    def imagined_parts(self) -> ImaginedParts:
        """What `imagined` takes."""
        reward_model, threshold = self.reward_model()
        return self.world_model(), reward_model, jnp.float32(threshold)

    def imagined(self, parts: ImaginedParts) -> ImaginedDynamics:
        """The imagined environment of the task."""
        return ImaginedDynamics(*parts, self.config.reward.min_step)

    def _named(self, stage: str) -> str:
        return round_name(stage, self.round) if stage in ROUND_STAGES else stage

    def _params(self, stage: str, shapes: Any) -> Any:
        stage = self._named(stage)
        return self._restored(stage, shapes, self.workdir.final_step(stage))

    def _restored(self, folder: str, shapes: Any, step: int) -> Any:
        with Checkpoints(self.workdir.checkpoints(folder)) as checkpoints:
            return checkpoints.restore_params(shapes, step)


def rounds_of(config: ConfigDict) -> int:
    """How often the policy is improved: once, and once more for every entry of lifelong.starts."""
    return 1 + len(config.lifelong.starts) if "lifelong" in config else 1


def round_name(name: str, number: int) -> str:
    """`name` in the first round of the lifelong loop, `name`_2 in the second."""
    return name if number == 1 else f"{name}_{number}"


def imagined_sampler(
    mesh: Mesh,
    policy: Policy,
    config: GRPOConfig,
    min_step: int,
    num_chunks: int,
    twice: bool = False,
) -> Callable[..., Experience]:
    """The compiled imagined rollout: (params, imagined parts, first observations, key) -> episodes.

    A first observation is that of a whole group. Stage improve runs it, the planner compiles it.

    Args:
      twice: imagine the same actions again with other noise, and mask what that contradicts.
    """

    @jax.jit
    def imagine(
        params: Any, parts: ImaginedParts, start: Observation, key: jax.Array
    ) -> Experience:
        acting = policy.acting(params, config.temperature)
        imagined = ImaginedDynamics(*parts, min_step)
        with sharding.over(mesh):
            episodes = rollout_groups(acting, imagined, start, key, num_chunks, config.group_size)
            if not twice:
                return episodes
            actions = jnp.asarray(decode(episodes.tokens_BNKA, policy.bins))
            other_key = jax.random.fold_in(key, 1)
            return without_contradicted(episodes, actions, imagined, start, other_key)

    return imagine


def statistics_file(workdir: Workdir) -> Any:
    """Where stage demos writes the action statistics."""
    return workdir.data("demos") / "statistics.json"
