"""Interfaces of real environments: pure functions of one world, or many worlds on the host."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from flax import struct

from wmpo_jax.algorithm.protocols import ChunkOutcome, Observation


class EnvState(struct.PyTreeNode):
    """The complete state of one world between two control steps.

    Attributes:
      physics: pytree of arrays owned by the simulator.
      instruction_id: int32 index into `Environment.instructions`.
      success: bool, latched: the task has been solved at or before this step.
      invalid: bool, latched: the physics produced a NaN or an infinity, and the world is frozen
        at its last finite state.
      step: int32, control steps executed.
      memory: pytree owned by the task, for what the physics alone does not remember.
    """

    physics: Any
    instruction_id: jax.Array
    success: jax.Array
    invalid: jax.Array
    step: jax.Array
    memory: Any


class Task(Protocol):
    """What networks and stages need of an environment, on the device or on the host.

    Attributes:
      name: key in the registry.
      instructions: all instructions of the task; `EnvState.instruction_id` points into it.
      action_dim: length of an action; each entry is in [-1, 1].
      horizon: control steps in an episode, a multiple of `chunk`.
      chunk: actions executed open-loop between two frames that the policy gets.
      image_size: height and width of a frame in pixels.
    """

    name: str
    instructions: tuple[str, ...]
    action_dim: int
    horizon: int
    chunk: int
    image_size: int


class Environment(Task, Protocol):
    """A task in one world, its camera and its scripted actors. Callers vmap."""

    def reset(self, seed: jax.Array) -> EnvState:
        """A start drawn from the int32 scalar `seed`; equal seeds give equal starts."""
        ...

    def step(self, state: EnvState, action_A: jax.Array) -> EnvState:
        """One control step of float32 `action_A`, which is clipped to [-1, 1]."""
        ...

    def render(self, state: EnvState) -> jax.Array:
        """uint8 [H, W, 3]."""
        ...

    def expert(self, state: EnvState, key: jax.Array, bias: float = 0.0) -> jax.Array:
        """A scripted demonstrator that reads the true state; float32 [A] in [-1, 1].

        Its aim is off by about `bias` meters in a systematic way: the error that reinforcement
        learning should correct. Scripts here are deterministic; `key` belongs to the
        signature that they share with `play`.
        """
        ...

    def play(self, state: EnvState, episode_key: jax.Array) -> jax.Array:
        """Task-agnostic motion, independent of the instruction; float32 [A] in [-1, 1]."""
        ...


class Witness(struct.PyTreeNode):
    """What a diagnosis may know of a true state; nothing that learns or scores ever reads it.

    Attributes:
      geom_HW: int32, the geom that each pixel shows, an index into `geom_names`; -1 for none.
      miss: meters by which what decides about success is off in this state; infinite where
        nothing is decided.
    """

    geom_HW: jax.Array
    miss: jax.Array


@runtime_checkable
class Witnessed(Protocol):
    """An environment that says more of its true state than frames show, for reports alone."""

    geom_names: tuple[str, ...]

    def witness(self, state: EnvState) -> Witness: ...


@runtime_checkable
class StoresStarts(Protocol):
    """A benchmark that keeps initial states for evaluation."""

    def held_out(self, start: int, count: int) -> np.ndarray:
        """Stored initial states number `start`, `start + 1`, ...: int32 [count].

        Raises:
          UserError: there are fewer.
        """
        ...


@runtime_checkable
class HostEnvironment(Task, StoresStarts, Protocol):
    """A simulator that cannot run inside jit: waves of worlds in processes of their own.

    A start is an int32: zero and above it is a seed, from which the simulator draws; below it is
    one of the benchmark's stored initial states, which are kept for evaluation. All starts of a
    wave belong to the same task.

    Attributes:
      wave: most episodes at once; the policy is compiled for so many.
    """

    wave: int

    def instruction_ids(self, starts_B: np.ndarray) -> np.ndarray:
        """int32 [B]: the instruction of each start, an index into `instructions`."""
        ...

    def reset(self, starts_B: np.ndarray) -> Observation:
        """Begins a wave and ends the one before."""
        ...

    def step(self, actions_BKA: np.ndarray, videos: bool) -> tuple[Observation, ChunkOutcome]:
        """A chunk of the wave, in the environment's action units.

        Args:
          videos: False renders only the frame after the chunk; the others repeat the one before.
        """
        ...

    def record(
        self,
        starts_B: np.ndarray,
        actor: str,
        noise: float,
        on_batch: Callable[[int], None],
    ) -> "Episodes":
        """Whole episodes of a scripted `actor`, "expert" or "play"."""
        ...

    def protocol(self) -> dict[str, Any]:
        """How episodes are set up, rendered and scored, for result files."""
        ...

    def report(self) -> dict[str, Any]:
        """Counts of what happened during simulation, for result files."""
        ...


class Episodes(struct.PyTreeNode):
    """Real episodes, all `horizon` steps long; T = horizon + 1 frames, T - 1 actions.

    Attributes:
      frames_BTHWC: uint8, frame t precedes action t.
      actions_BTA: float32 [B, T - 1, A] in [-1, 1], as executed.
      labels_BTA: float32 [B, T - 1, A], what the actor intended in that state, before noise.
      instruction_id_B: int32 index into the task's instructions.
      success_B: bool, solved at some step.
      finish_step_B: int32, actions executed when success first held; horizon if it never did.
      invalid_B: bool, the physics broke down.
    """

    frames_BTHWC: jax.Array
    actions_BTA: jax.Array
    labels_BTA: jax.Array
    instruction_id_B: jax.Array
    success_B: jax.Array
    finish_step_B: jax.Array
    invalid_B: jax.Array
