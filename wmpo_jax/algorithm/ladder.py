"""The rungs between acting in the real environment and acting in the imagined one.

Each is a `Dynamics` around the real one: the physics and the outcomes are real, only what the
policy is shown differs. What success loses from one rung to the next says which part is at fault.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from wmpo_jax.algorithm.imagination import WorldModel
from wmpo_jax.algorithm.protocols import ChunkOutcome, Dynamics, Observation


class ReconstructedDynamics:
    """The real environment seen through the autoencoder: every frame is encoded and decoded."""

    def __init__(self, real: Dynamics, world_model: WorldModel):
        self._real = real
        self._world_model = world_model

    def reset(self, start: Any, key: jax.Array) -> tuple[Any, Observation]:
        state, seen = self._real.reset(start, key)
        return state, self._through(seen, key)

    def step(
        self, state: Any, actions_BKA: jax.Array, key: jax.Array
    ) -> tuple[Any, Observation, ChunkOutcome]:
        state, seen, outcome = self._real.step(state, actions_BKA, key)
        return state, self._through(seen, key), outcome

    def _through(self, seen: Observation, key: jax.Array) -> Observation:
        latent_B1hwc = self._world_model.encode(seen.frame_BHWC[:, None], key)
        return seen.replace(frame_BHWC=self._world_model.decode(latent_B1hwc)[:, 0])


class AnchoredState(struct.PyTreeNode):
    """The real state, and the latents of the newest real frames."""

    real: Any
    history_BThwc: jax.Array


class AnchoredDynamics:
    """The real environment, of which the policy sees what the world model predicts one chunk ahead.

    After the chunk the history is that of the real frames, so that errors do not add up over
    chunks. The first frame is the real one, as it is in imagination. The frames of an outcome are
    the predicted ones, its success is real.
    """

    def __init__(self, real: Dynamics, world_model: WorldModel):
        self._real = real
        self._world_model = world_model

    def reset(self, start: Any, key: jax.Array) -> tuple[AnchoredState, Observation]:
        state, seen = self._real.reset(start, key)
        latent_B1hwc = self._world_model.encode(seen.frame_BHWC[:, None], key)
        history = jnp.repeat(latent_B1hwc, self._world_model.history, axis=1)
        return AnchoredState(state, history), seen

    def step(
        self, state: AnchoredState, actions_BKA: jax.Array, key: jax.Array
    ) -> tuple[AnchoredState, Observation, ChunkOutcome]:
        predict_key, encode_key, real_key = jax.random.split(key, 3)
        latents = self._world_model.predict(state.history_BThwc, actions_BKA, predict_key)
        predicted_BKHWC = self._world_model.decode(latents)
        real, seen, outcome = self._real.step(state.real, actions_BKA, real_key)
        true_BKhwc = self._world_model.encode(outcome.frames_BKHWC, encode_key)
        history = jnp.concatenate([state.history_BThwc, true_BKhwc], axis=1)
        history = history[:, -self._world_model.history :]
        return (
            AnchoredState(real, history),
            seen.replace(frame_BHWC=predicted_BKHWC[:, -1]),
            outcome.replace(frames_BKHWC=predicted_BKHWC),
        )
