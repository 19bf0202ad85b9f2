"""A task that exists as recordings only: it can be trained on, but not acted in."""

from dataclasses import dataclass
from typing import NoReturn

import jax

from wmpo_jax.envs.protocol import EnvState
from wmpo_jax.runtime.errors import UserError


@dataclass
class RecordedTask:
    """`envs.protocol.Environment` without a simulator; methods that need one raise UserError."""

    instructions: tuple[str, ...]
    action_dim: int
    horizon: int
    chunk: int
    image_size: int
    name: str = "recorded"

    def reset(self, seed: jax.Array) -> EnvState:
        _refuse()

    def step(self, state: EnvState, action_A: jax.Array) -> EnvState:
        _refuse()

    def render(self, state: EnvState) -> jax.Array:
        _refuse()

    def expert(self, state: EnvState, key: jax.Array, bias: float = 0.0) -> jax.Array:
        _refuse()

    def play(self, state: EnvState, episode_key: jax.Array) -> jax.Array:
        _refuse()


def _refuse() -> NoReturn:
    raise UserError(
        "This stage acts in an environment, and there is only a dataset: name the environment in "
        "config.task, or run the stages demos, sft, autoencoder and world_model alone."
    )
