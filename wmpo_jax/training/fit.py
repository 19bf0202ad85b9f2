"""The one supervised training loop: resume, step, show, save, stop on request."""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from wmpo_jax.runtime import preemption
from wmpo_jax.runtime.checkpoints import Checkpoints
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.mesh import replicate, spread_part, transfer_guard
from wmpo_jax.runtime.metrics import MetricWriter
from wmpo_jax.runtime.progress import progress
from wmpo_jax.training.state import TrainState, restore, save
from wmpo_jax.training.step import Batch, StepFunction

LOG_EVERY = 20


@dataclass(frozen=True)
class LoopFiles:
    """Where a training loop keeps what it makes.

    Attributes:
      name: of the stage, for messages and the progress bar.
      metrics: resume step -> writer.
    """

    name: str
    checkpoints: Checkpoints
    metrics: Callable[[int], MetricWriter]


class Loader(Protocol):
    """Makes batches from (seed, step): `data.loading.WindowLoader` and others.

    Attributes:
      batch_size: rows on all hosts.
    """

    batch_size: int

    def iterate(self, step: int) -> Iterator[dict[str, np.ndarray]]:
        """This host's rows of the batches of `step`, `step` + 1, ..."""
        ...


@dataclass(frozen=True)
class Stream:
    """Data that do not fit into the devices' memory: each step gets the next batch of a loader.

    Attributes:
      constants: what every step is given beside its batch, such as a frozen network.
    """

    loader: Loader
    constants: Mapping[str, Any] = field(default_factory=dict)


def fit(
    files: LoopFiles,
    mesh: Mesh,
    state: TrainState,
    step_fn: StepFunction,
    data: Any,
    steps: int,
    save_every: int,
    frozen: Any = None,
) -> TrainState:
    """Trains until `steps`, from the newest checkpoint if there is one.

    With 0 steps the state is saved as it is: an imported network that needs no training.

    Args:
      state: of `initial_state`; it is used up, as steps donate it.
      data: arrays that `step_fn` draws its batches from, small enough for a copy on every device;
        or a `Stream` of batches.
      frozen: given to every step as it is; not part of checkpoints.

    Raises:
      Preempted: after saving, when SIGTERM or Ctrl-C asked for it.
      UserError: a loss or a parameter is not finite; nothing after the last good checkpoint is
        saved.
    """
    name, checkpoints = files.name, files.checkpoints
    if checkpoints.latest_step() is not None:
        state = restore(checkpoints, state)
    start = int(state.step)
    if steps == 0 and checkpoints.latest_step() is None:
        save(checkpoints, 0, state)
    batches, losses = _batches(mesh, data, start), Mean()
    with (
        completed(checkpoints),
        files.metrics(start) as writer,
        progress(steps, start, name) as bar,
    ):
        for step in range(start + 1, steps + 1):
            batch = next(batches)
            with transfer_guard():
                state, metrics = step_fn(state, batch, frozen)
            losses.add(metrics)
            leaving = preemption.stop_requested()
            due = step % save_every == 0 or step == steps
            if step % LOG_EVERY == 0 or due or leaving:
                means = losses.take()
                _check_finite(name, step, means["loss"])
            if step % LOG_EVERY == 0 or due:
                writer.write(step, means)
                bar.headline(loss=means["loss"])
            bar.advance()
            if due or leaving:
                save(checkpoints, step, state)
            if leaving:
                raise preemption.stopped(name, step)
    return state


@contextlib.contextmanager
def completed(checkpoints: Checkpoints) -> Iterator[None]:
    """However the block ends, the saves that it began are on disk, and nothing is saved after."""
    try:
        yield
    finally:
        checkpoints.close()


class Mean:
    """Means of scalar metrics over an interval, summed on the device until they are taken."""

    def __init__(self) -> None:
        self._total: Any = None
        self._count = 0

    def add(self, metrics: Mapping[str, jax.Array]) -> None:
        """One step's metrics."""
        total = dict(metrics)
        self._total = total if self._total is None else jax.tree.map(jnp.add, self._total, total)
        self._count += 1

    def take(self) -> dict[str, float]:
        """The means, and a fresh start."""
        means = {name: float(value) / self._count for name, value in self._total.items()}
        self._total, self._count = None, 0
        return means


def _batches(mesh: Mesh, data: Any, start: int) -> Iterator[Any]:
    """What each step from `start` on is given; the same arrays again and again, or a stream."""
    if not isinstance(data, Stream):
        yield from itertools.repeat(replicate(mesh, data))
        return
    constants = replicate(mesh, dict(data.constants))
    for batch in data.loader.iterate(start):
        yield Batch(spread_part(mesh, batch, data.loader.batch_size), constants)


def _check_finite(name: str, step: int, loss: float) -> None:
    if not math.isfinite(loss):
        raise UserError(
            f"The loss of stage {name} is {loss} at step {step}: lower {name}.learning_rate in "
            "the config; the newest checkpoint is from before this."
        )
