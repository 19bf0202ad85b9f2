"""A simulator on the host that can be predicted: frames show a level, actions raise it."""

from typing import Any

import numpy as np

from wmpo_jax.algorithm.protocols import ChunkOutcome, Observation


class Lifts:
    """`HostEnvironment` with two tasks, three episodes at once, two chunks of four actions.

    An episode begins at level |start| mod 50 and is solved when it has risen by 4 in all.
    """

    name = "toy_d0"
    instructions: tuple[str, ...] = ("coffee", "the square")
    action_dim = 7
    horizon = 8
    chunk = 4
    image_size = 4
    wave = 3

    def __init__(self) -> None:
        self.waves: list[list[int]] = []
        self.executed: list[np.ndarray] = []
        self.videos: set[bool] = set()

    def instruction_ids(self, starts_B: np.ndarray) -> np.ndarray:
        return (np.abs(starts_B) % 2).astype(np.int32)

    def held_out(self, start: int, count: int) -> np.ndarray:
        return np.arange(-1 - start, -1 - start - count, -1, dtype=np.int32)

    def reset(self, starts_B: np.ndarray) -> Observation:
        self.waves.append(starts_B.tolist())
        self._goal_B: Any = self.instruction_ids(starts_B)
        self._begin_B = self._level_B = np.abs(starts_B) % 50.0
        return self._see()

    def step(self, actions_BKA: np.ndarray, videos: bool) -> tuple[Observation, ChunkOutcome]:
        self.executed.append(actions_BKA)
        self.videos.add(videos)
        level_BK: Any = self._level_B[:, None] + actions_BKA[..., 0].cumsum(axis=1)
        self._level_B = level_BK[:, -1]
        outcome = ChunkOutcome(
            frames_BKHWC=self._draw(level_BK),
            success_BK=level_BK >= self._begin_B[:, None] + 4.0,
            invalid_B=np.zeros(len(level_BK), bool),  # pyright: ignore
        )
        return self._see(), outcome

    def record(self, starts_B: np.ndarray, actor: str, noise: float, on_batch: Any) -> Any:
        raise NotImplementedError

    def protocol(self) -> dict[str, Any]:
        return {"suite": self.name, "sha256": "0123"}

    def report(self) -> dict[str, Any]:
        return {"replaced_workers": 0}

    def _see(self) -> Observation:
        return Observation(frame_BHWC=self._draw(self._level_B), instruction_id_B=self._goal_B)

    def _draw(self, level: np.ndarray) -> Any:
        return np.broadcast_to(
            level[..., None, None, None], (*level.shape, self.image_size, self.image_size, 3)
        ).astype(np.uint8)
