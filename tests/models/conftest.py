"""In the networks, a broadcast between arrays of different rank that nobody wrote is an error."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True)
def no_silent_broadcasts() -> Iterator[None]:
    with jax.numpy_rank_promotion("raise"):
        yield
