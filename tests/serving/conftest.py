"""A policy made of arithmetic behind the real server, in a thread."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from wmpo_jax.runtime.errors import UserError
from wmpo_jax.serving import server

CHUNK, DIM, SIZE = 4, 7, 8


class Gray:
    """Every action is the frame's mean level; counts the rows of each batch."""

    default_prompt: str | None = None

    def __init__(self) -> None:
        self.about = {"policy": "gray", "chunk": CHUNK, "action_dim": DIM, "image_size": SIZE}
        self.batches: list[int] = []
        self.prompts: list[str] = []
        self.pause = threading.Event()
        self.pause.set()
        self.fails = False

    def check(self, prompt: str) -> None:
        if prompt == "dance":
            raise UserError("This policy does not dance.")

    def __call__(self, frames_BHWC: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        self.pause.wait(10)
        if self.fails:
            raise ZeroDivisionError("inside")
        self.batches.append(len(frames_BHWC))
        self.prompts += prompts
        level_B = frames_BHWC.astype(np.float32).mean(axis=(1, 2, 3)) / 255
        return np.broadcast_to(level_B[:, None, None], (len(level_B), CHUNK, DIM)).copy()


@pytest.fixture
def gray() -> Gray:
    return Gray()


@pytest.fixture
def serving(gray: Gray) -> Iterator[Callable[..., int]]:
    """Starts the server with (batch, token); gives its port."""
    ends = []

    def start(batch: int = 4, token: str = "") -> int:
        taken = server.claimed("127.0.0.1", 0)
        taken.listen()  # so that a client who is faster than the thread waits
        served = server.PolicyServer(gray, batch, token)
        served.warm_up()
        loop = asyncio.new_event_loop()
        task = loop.create_task(served.run(taken))

        def answer() -> None:
            with pytest.raises(asyncio.CancelledError):
                loop.run_until_complete(task)
            loop.close()

        thread = threading.Thread(target=answer)
        thread.start()
        ends.append((loop, task, thread))
        return taken.getsockname()[1]

    yield start
    gray.pause.set()
    for loop, task, thread in ends:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(10)
