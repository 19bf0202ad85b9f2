"""Requests of concurrent clients in common batches."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from wmpo_jax.runtime.errors import UserError
from wmpo_jax.serving.observations import Seen
from wmpo_jax.serving.policies import ServedPolicy

MOST_SIZES = 8  # image sizes that the policy is compiled for, one client's size being one

_Waiting = tuple[Seen, asyncio.Future[np.ndarray]]


class Batcher:
    """Computes whatever waits when the computation before is done, at most `batch` at once.

    A request that comes alone is computed alone, so that one robot never waits for another. Only
    batches of one and of `batch` are compiled; others are filled up with copies of their last row.
    """

    def __init__(self, policy: ServedPolicy, batch: int) -> None:
        self._policy, self._batch = policy, batch
        self._sizes: set[tuple[int, ...]] = set()
        self._waiting: list[_Waiting] = []
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policy")

    def warm_up(self) -> None:
        """Compiles both batches for the policy's own image size."""
        side = self._policy.about["image_size"]
        prompt = (self._policy.about.get("instructions") or ["move"])[0]
        blank = Seen(np.zeros((side, side, 3), np.uint8), prompt)
        self._sizes.add(blank.frame_HWC.shape)
        for count in sorted({1, self._batch}):
            self._compute([blank] * count)

    async def actions(self, seen: Seen) -> np.ndarray:
        """float32 [K, A], as soon as it is this request's turn.

        Raises:
          UserError: the policy does not take this instruction, or one image size too many.
        """
        self._policy.check(seen.prompt)
        self._admit(seen)
        future: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        self._waiting.append((seen, future))
        self._arrived.set()
        return await future

    def _admit(self, seen: Seen) -> None:
        """Every size is a compilation, and a client could ask for many."""
        if seen.frame_HWC.shape not in self._sizes and len(self._sizes) >= MOST_SIZES:
            side = self._policy.about["image_size"]
            raise UserError(
                f"This server has been sent {MOST_SIZES} sizes of images and takes no other: send "
                f"{side} x {side} pixels."
            )
        self._sizes.add(seen.frame_HWC.shape)

    async def run(self) -> None:
        """Computes until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            batch = self._take()
            try:
                work = [seen for seen, _ in batch]
                found = await loop.run_in_executor(self._thread, self._compute, work)
            except Exception as error:  # of one batch: its clients learn of it, others go on
                for _, future in batch:
                    _settle(future, error)
            else:
                for (_, future), actions_KA in zip(batch, found, strict=True):
                    _settle(future, actions_KA)

    def _take(self) -> list[_Waiting]:
        """The oldest requests whose images are of one size; those of clients that left are gone."""
        alive = [entry for entry in self._waiting if not entry[1].done()]
        same = [e for e in alive if e[0].frame_HWC.shape == alive[0][0].frame_HWC.shape]
        batch = same[: self._batch]
        taken = set(map(id, batch))
        self._waiting = [entry for entry in alive if id(entry) not in taken]
        if not self._waiting:
            self._arrived.clear()
        return batch

    def _compute(self, batch: Sequence[Seen]) -> np.ndarray:
        """float32 actions_BKA of the batch, B rows."""
        if not batch:
            return np.empty((0,))
        size = 1 if len(batch) == 1 else self._batch
        filled = [*batch, *[batch[-1]] * (size - len(batch))]
        frames_BHWC = np.stack([seen.frame_HWC for seen in filled])
        return self._policy(frames_BHWC, [seen.prompt for seen in filled])[: len(batch)]


def _settle(future: asyncio.Future[np.ndarray], outcome: np.ndarray | Exception) -> None:
    if future.done():  # its client has left
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
