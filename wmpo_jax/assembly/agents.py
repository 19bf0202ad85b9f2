"""Agents and hyperparameters of a config."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from wmpo_jax.agents.autoencoder import FrameAutoencoder, build_autoencoder, make_autoencoder
from wmpo_jax.agents.policy import Policy, make_policy
from wmpo_jax.agents.reward_model import VideoRewardModel, build_reward_model, make_reward_model
from wmpo_jax.agents.world_model import (
    FlowConfig,
    VideoWorldModel,
    build_world_model,
    make_world_model,
)
from wmpo_jax.assembly import networks
from wmpo_jax.envs.protocol import Task
from wmpo_jax.models.autoencoder_kl import AutoencoderKL
from wmpo_jax.models.stdit import STDiT
from wmpo_jax.models.videomae import VideoMAE
from wmpo_jax.training.autoencoder import AutoencoderTraining
from wmpo_jax.training.grpo import GRPOConfig
from wmpo_jax.training.optimizers import OptimizerConfig
from wmpo_jax.training.reward_model import WEIGHT_DECAY, RewardTraining
from wmpo_jax.training.sft import SFTConfig
from wmpo_jax.training.world_model import WorldModelTraining


def policy(config: ConfigDict, task: Task) -> Policy:
    """The VLA for a task; fresh weights depend on config.seed."""
    return make_policy(
        networks.vla_config(config, task),
        networks.vla_transform(config),
        networks.tokenizer(config),
        task.instructions,
        networks.lora(config),
        config.seed,
    )


def autoencoder_network(config: ConfigDict) -> AutoencoderKL:
    """With fresh weights; its latents are not scaled."""
    return build_autoencoder(networks.autoencoder_config(config, 1.0), config.seed)


def autoencoder(config: ConfigDict, scale: float, params: Any) -> FrameAutoencoder:
    """Around `params`, arrays or shapes; latents are multiplied by `scale`."""
    return make_autoencoder(networks.autoencoder_config(config, scale), params)


def world_model_network(config: ConfigDict, task: Task) -> STDiT:
    """With fresh weights."""
    return build_world_model(networks.stdit_config(config, task), config.seed)


def world_model(
    config: ConfigDict, task: Task, params: Any, frames: FrameAutoencoder
) -> VideoWorldModel:
    """Around `params`, arrays or shapes."""
    sizes = networks.stdit_config(config, task)
    return make_world_model(sizes, flow_config(config, task), params, frames)


def reward_network(config: ConfigDict, task: Task) -> VideoMAE:
    """With fresh weights."""
    return build_reward_model(networks.videomae_config(config, task), config.seed)


def reward_model(config: ConfigDict, task: Task, params: Any) -> VideoRewardModel:
    """Around `params`, arrays or shapes."""
    return make_reward_model(networks.videomae_config(config, task), params)


def flow_config(config: ConfigDict, task: Task) -> FlowConfig:
    """How the world model is trained and sampled."""
    section = config.world_model
    return FlowConfig(
        image_size=task.image_size,
        prediction=section.prediction,
        sampling_steps=section.sampling_steps,
        history_noise=section.history_noise,
        timestep_shift=section.timestep_shift,
        start_spread=section.get("start_spread", FlowConfig.start_spread),
        train_times=section.get("train_times", FlowConfig.train_times),
    )


def sft_config(
    config: ConfigDict, steps: int | None = None, learning_rate: float | None = None
) -> SFTConfig:
    """Of stage sft; another training of the same kind has its own `steps` and `learning_rate`."""
    section = config.sft
    optimizer = _optimizer(config, section, section.steps if steps is None else steps)
    if learning_rate is not None:
        optimizer = dataclasses.replace(optimizer, learning_rate=learning_rate)
    return SFTConfig(
        optimizer=optimizer,
        batch_size=section.batch_size,
        soft_label_sigma=section.soft_label_sigma,
        augment=section.augment,
        accumulate=section.get("accumulate", 1),
    )


def autoencoder_training(config: ConfigDict) -> AutoencoderTraining:
    """Of stage autoencoder."""
    section = config.autoencoder
    return AutoencoderTraining(
        optimizer=_optimizer(config, section, section.steps),
        batch_size=section.batch_size,
        kl_weight=section.kl_weight,
    )


def world_model_training(config: ConfigDict, task: Task) -> WorldModelTraining:
    """Of stage world_model; both phases are one training run with two mixtures."""
    section = config.world_model
    return WorldModelTraining(
        optimizer=_optimizer(config, section, section.pretrain_steps + section.align_steps),
        flow=flow_config(config, task),
        batch_size=section.batch_size,
        history=section.history,
        chunk=task.chunk,
        horizon=task.horizon,
        pretrain_steps=section.pretrain_steps,
        demo_fraction=section.demo_fraction,
        rollout_fraction=section.align_rollout_fraction,
        self_forcing=section.self_forcing,
        ema_decay=section.ema_decay,
        forcing_from=section.get("forcing_from", 0),
        accumulate=section.get("accumulate", 1),
    )


def reward_training(config: ConfigDict, task: Task) -> RewardTraining:
    """Of stage reward."""
    section = config.reward
    return RewardTraining(
        optimizer=dataclasses.replace(
            _optimizer(config, section, section.steps), weight_decay=WEIGHT_DECAY
        ),
        batch_size=section.batch_size,
        window=section.window,
        horizon=task.horizon,
        accumulate=section.get("accumulate", 1),
    )


def grpo_config(config: ConfigDict, **changes: Any) -> GRPOConfig:
    """`config.improve`, with some values changed."""
    section = config.improve
    names = {field.name for field in dataclasses.fields(GRPOConfig)}
    values = {name: section[name] for name in names & set(section.keys())}
    return GRPOConfig(**{"temperature": config.policy.temperature, **values, **changes})


def _optimizer(config: ConfigDict, section: ConfigDict, steps: int) -> OptimizerConfig:
    return OptimizerConfig(
        section.learning_rate,
        steps,
        section.get("optimizer", "adamw"),
        section.get("weight_decay", 0.0),
        networks.products(config),
    )
