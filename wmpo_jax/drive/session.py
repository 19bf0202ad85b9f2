"""Episodes that are being driven: resets, chunks and what the page shows of them.

Everything that comes in is a parsed JSON value that anyone may have sent; what goes out is JSON.
"""

import base64
import io
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from reprlib import repr  # shortens: what comes in may be long, and deep
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from wmpo_jax.drive.starts import StoredStarts
from wmpo_jax.drive.worlds import Side, Turn, Worlds
from wmpo_jax.runtime.errors import UserError

HAND, SAME = "hand", "same"
MAX_EPISODES = 64  # open at a time, one per browser tab; the oldest is forgotten


@dataclass
class Episode:
    """Both worlds of one episode and how many chunks they have seen."""

    real: Side
    imagined: Side
    chunks: int = 0


class Session:
    """Answers the page: `about`, `reset`, `step`."""

    def __init__(self, worlds: Worlds, starts: Mapping[str, StoredStarts], name: str) -> None:
        self._worlds, self._starts, self._name = worlds, starts, name
        self._episodes: OrderedDict[str, Episode] = OrderedDict()
        self._opened = 0

    def about(self) -> dict[str, Any]:
        """What the page has to know before anything is driven."""
        env = self._worlds.env
        return {
            "run": self._name,
            "task": env.name,
            "action_dim": env.action_dim,
            "chunk": env.chunk,
            "horizon": env.horizon,
            "threshold": self._worlds.threshold,
            "policies": list(self._worlds.policies),
            "starts": {role: len(stored.seeds) for role, stored in self._starts.items()},
        }

    def warm_up(self) -> None:
        """Compiles everything: two chunks by hand and two with each policy.

        Programs are compiled for what they are given: actions by hand and a policy's, a world that
        was just reset and one that has moved.
        """
        role = next(iter(self._starts))
        hand = [0.0] * self._worlds.env.action_dim
        for driver in (HAND, *self._worlds.policies):
            episode = self.reset({"role": role, "number": 0})["episode"]
            call = {"episode": episode, "real": driver, "imagined": driver, "hand": hand}
            self.step(call)
            self.step(call)
        self._episodes.clear()

    def reset(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Opens an episode.

        Args:
          request: `role`, who used the start in the run, and `number`, which of theirs.

        Raises:
          UserError: no such start.
        """
        role, number = request.get("role"), request.get("number")
        stored = self._starts.get(role) if isinstance(role, str) else None
        # type: True is an int, too.
        if stored is None or type(number) is not int or not 0 <= number < len(stored.seeds):
            sizes = ", ".join(f"{role} 0-{len(s.seeds) - 1}" for role, s in self._starts.items())
            raise UserError(f"There is no start {repr(number)} of {repr(role)}: take {sizes}.")
        seed = int(stored.seeds[number])
        real, imagined = self._worlds.start(seed)
        self._opened += 1
        episode = str(self._opened)
        self._episodes[episode] = Episode(real, imagined)
        while len(self._episodes) > MAX_EPISODES:
            self._episodes.popitem(last=False)
        instruction_id = int(real.observation.instruction_id_B[0])
        return {
            "episode": episode,
            "seed": seed,
            "instruction": self._worlds.env.instructions[instruction_id],
            "frame": _png(np.asarray(real.observation.frame_BHWC[0])),
            "outcomes": {name: bool(found[number]) for name, found in stored.outcomes.items()},
        }

    def step(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Executes one chunk in both worlds.

        Args:
          request: `episode`; `real`, who acts in reality ("hand" or a policy); `imagined`, who
            acts in imagination (the same, or "same" for the very actions of reality); `hand`,
            action_dim numbers in [-1, 1] in the task's own units.

        Raises:
          UserError: an unknown episode or driver, or numbers that are not an action.
        """
        name = request.get("episode")
        episode = self._episodes.get(name) if isinstance(name, str) else None
        if episode is None:
            raise UserError("This episode is no longer open: reset.")
        drivers = request.get("real"), request.get("imagined")
        for driver, others in zip(drivers, ((HAND,), (HAND, SAME)), strict=True):
            if driver not in (*others, *self._worlds.policies):
                raise UserError(f"Nobody called {repr(driver)} can drive here.")
        hand_BKA = self._worlds.normalize(self._action(request.get("hand")))
        acted_BKA, imagined_BKA, policy_ms = self._choose(episode, drivers, hand_BKA)
        key = jax.random.fold_in(jax.random.key(1), episode.chunks)
        (episode.real, real), real_ms = _timed(
            lambda: self._worlds.step_real(episode.real, acted_BKA)
        )
        (episode.imagined, imagined), imagined_ms = _timed(
            lambda: self._worlds.step_imagined(episode.imagined, imagined_BKA, key)
        )
        episode.chunks += 1
        return {
            "steps": episode.chunks * self._worlds.env.chunk,
            "real": _shown(real),
            "imagined": _shown(imagined),
            "error": rms_error(real, imagined).tolist(),
            "milliseconds": {"policy": policy_ms, "real": real_ms, "imagined": imagined_ms},
        }

    def _action(self, values: Any) -> jax.Array:
        size = self._worlds.env.action_dim
        numbers = isinstance(values, list) and all(
            type(value) in (int, float) and abs(value) <= 1 for value in values
        )
        if not numbers or len(values) != size:
            raise UserError(f"An action is {size} numbers from -1 to 1, not {repr(values)}.")
        return jnp.asarray(values, jnp.float32)

    def _choose(
        self, episode: Episode, drivers: tuple[Any, Any], hand_BKA: jax.Array
    ) -> tuple[jax.Array, jax.Array, float]:
        """The chunks of both worlds; a policy sees the world that it drives."""

        def chosen(driver: str, side: Side) -> jax.Array:
            return hand_BKA if driver == HAND else self._worlds.act(driver, side)

        def both() -> tuple[jax.Array, jax.Array]:
            acted = chosen(drivers[0], episode.real)
            return acted, acted if drivers[1] == SAME else chosen(drivers[1], episode.imagined)

        (acted_BKA, imagined_BKA), milliseconds = _timed(both)
        return acted_BKA, imagined_BKA, milliseconds


def rms_error(real: Turn, imagined: Turn) -> np.ndarray:
    """Root mean square difference of the pixels after each action, of 255; float [K]."""
    a, b = (np.asarray(turn.frames_KHWC, np.float32) for turn in (real, imagined))
    return np.sqrt(((a - b) ** 2).mean(axis=(1, 2, 3)))


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    result = jax.block_until_ready(work())
    return result, round(1000 * (time.perf_counter() - started), 2)


def _shown(turn: Turn) -> dict[str, Any]:
    return {
        "frames": [_png(frame) for frame in np.asarray(turn.frames_KHWC)],
        "probability": [round(float(p), 4) for p in np.asarray(turn.probability_K)],
        "success": np.asarray(turn.success_K).tolist(),
        "invalid": bool(turn.invalid),
    }


def _png(frame_HWC: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(frame_HWC).save(buffer, format="PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
