"""Batches of windows out of a mixture of datasets, for training, through Grain.

The batch of a step is a function of (mixture, seed, step) alone: a run that is resumed at a step
goes on with the very batches that it would have seen, in the middle of an epoch too, and every host
takes its rows of the same global batch, however many hosts there are.
"""

import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
from PIL import Image

from wmpo_jax.data.dataset import Dataset
from wmpo_jax.data.episodes import BadEpisode, checked_frames, checked_info
from wmpo_jax.data.extras import require
from wmpo_jax.data.mixture import Mixture
from wmpo_jax.runtime.errors import UserError

THREADS = 4
PREFETCH = 4  # batches

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class WindowSpec:
    """What is cut out around a step s of an episode.

    Attributes:
      history: frames s - history + 1 ... s; before the first frame stand copies of it.
      chunk: actions s ... s + chunk - 1; only steps that have them all are used.
      future: also the frames s + 1 ... s + chunk that the actions lead to.
      past_actions: also the actions before s; before the first one stand copies of it.
    """

    history: int
    chunk: int
    future: bool
    past_actions: int = 0

    def starts(self, steps: int, num_frames: int) -> int:
        """How many steps of an episode a window can be cut around."""
        usable = min(steps, num_frames - 1) if self.future else steps
        return max(usable - self.chunk + 1, 0)

    def frame_times(self, start: int) -> np.ndarray:
        last = start + (self.chunk if self.future else 0)
        return np.arange(start - self.history + 1, last + 1).clip(min=0)

    def action_times(self, start: int) -> np.ndarray:
        return np.arange(start - self.past_actions, start + self.chunk).clip(min=0)


class Windows:
    """All windows of one dataset, by number."""

    def __init__(self, dataset: Dataset, spec: WindowSpec) -> None:
        self.dataset, self._spec = dataset, spec
        counts = [spec.starts(entry.steps, entry.num_frames) for entry in dataset.episodes]
        self._ends = np.cumsum(counts)
        self.too_short = counts.count(0)
        # Actions of the latest episodes: windows of one often follow each other closely.
        self._info = lru_cache(maxsize=1024)(partial(checked_info, dataset.source))
        self.skipped = 0
        self._lock = threading.Lock()
        if not self._ends[-1]:
            raise UserError(
                f"No episode of {dataset.name} is long enough for a chunk of {spec.chunk} actions: "
                "the longest has "
                f"{max(entry.steps for entry in dataset.episodes)}, set a smaller chunk."
            )
        if self.too_short:
            warnings.warn(
                f"{dataset.name}: {self.too_short} of {len(counts)} episodes are too short for a "
                f"chunk of {spec.chunk} actions and are left out",
                stacklevel=2,
            )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray, str, int]:
        """(frames_THWC, raw actions_KA, instruction, start) of a window.

        An episode that turns out bad only now is refused, or with `on_bad` "skip" warned about and
        counted, and the first window of the next good one taken in its place.
        """
        place = int(np.searchsorted(self._ends, number, side="right"))
        start = number - int(self._ends[place - 1] if place else 0)
        for ahead in range(len(self._ends)):
            there = (place + ahead) % len(self._ends)
            if ahead and not self._has_windows(there):
                continue
            try:
                return self._cut(there, 0 if ahead else start)
            except BadEpisode as error:
                self._count(error)
        raise UserError(f"No episode of {self.dataset.name} can be read any more.")

    def _cut(self, place: int, start: int) -> tuple[np.ndarray, np.ndarray, str, int]:
        source, entry = self.dataset.source, self.dataset.episodes[place]
        info = self._info(entry.index)
        times = self._spec.frame_times(start)
        unique, back = np.unique(times, return_inverse=True)
        frames = checked_frames(source, entry.index, unique)[back]
        return frames, info.actions_NA[self._spec.action_times(start)], entry.instruction, start

    def _has_windows(self, place: int) -> bool:
        return place == 0 or self._ends[place] > self._ends[place - 1]

    def _count(self, error: BadEpisode) -> None:
        if self.dataset.on_bad == "refuse":
            raise UserError(f"{error}: repair it or set on_bad to skip.") from error
        warnings.warn(f"{error}: the next episode takes its place", stacklevel=2)
        with self._lock:
            self.skipped += 1


class WindowLoader:
    """Batches by step.

    Args:
      batch_size: of the global batch.
      instructions: those that `instruction_id_B` points into; None for the mixture's own.
      image_size: frames of another height or width are resized to it (Lanczos).
      clip: whether normalized actions are clipped to [-1, 1]: yes for labels of a policy, no for a
        world model, whose frames follow from what was done.
      rows: which rows of the global batch are wanted (`runtime.mesh.host_rows`); None for all.
    """

    def __init__(
        self,
        mixture: Mixture,
        spec: WindowSpec,
        batch_size: int,
        seed: int,
        *,
        image_size: int,
        clip: bool,
        instructions: Sequence[str] | None = None,
        rows: np.ndarray | None = None,
    ) -> None:
        self.batch_size = batch_size
        self.instructions = tuple(instructions or mixture.instructions)
        unknown = sorted(set(mixture.instructions) - set(self.instructions))
        if unknown:
            asked = f"to {unknown[0]!r}" if unknown[0] else "for nothing (there is no instruction)"
            raise UserError(
                f"The data ask {asked} and the task knows: {', '.join(self.instructions)}; leave "
                "config.task empty to take the data's instructions."
            )
        self._windows = [Windows(dataset, spec) for dataset in mixture.datasets]
        self._image_size, self._clip = image_size, clip
        self._rows = np.arange(batch_size) if rows is None else rows
        self._batches = self._order(mixture, batch_size, seed).map(self._read)

    @property
    def skipped(self) -> int:
        """Windows of episodes that turned out bad while training."""
        return sum(windows.skipped for windows in self._windows)

    def batch(self, step: int) -> Batch:
        """The rows of this host in the batch of `step`, counted from 0.

        Returns:
          frames_BTHWC uint8; actions_BKA float32, normalized by their own dataset's statistics;
          instruction_id_B int32, index into `instructions`; start_B int32, the step that the window
          is cut around.
        """
        return self._batches[step]

    def iterate(self, step: int) -> Iterator[Batch]:
        """The batches of `step`, `step` + 1, ... without end, read ahead in threads."""
        grain = require("grain")
        options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=PREFETCH)
        return iter(self._batches[step:].to_iter_dataset(options))

    def _order(self, mixture: Mixture, batch_size: int, seed: int) -> Any:
        """Grain dataset of int arrays [batch_size, 2]: (dataset, window)."""
        grain = require("grain")
        orders, weights = [], []
        for number, windows in enumerate(self._windows):
            order = grain.MapDataset.range(len(windows)).seed(seed + number).shuffle().repeat()
            orders.append(order.map(_tagged(number)))
            weights.append(mixture.weights[number] * (len(windows) if mixture.balance else 1.0))
        shares = (np.asarray(weights) / sum(weights)).tolist()
        return grain.MapDataset.mix(orders, weights=shares).batch(batch_size)

    def _read(self, order_B2: np.ndarray) -> Batch:
        frames, actions, instructions, starts = [], [], [], []
        for number, window in order_B2[self._rows]:
            windows = self._windows[number]
            frames_THWC, actions_KA, instruction, start = windows.read(int(window))
            frames.append(resized(frames_THWC, self._image_size))
            actions.append(windows.dataset.statistics.normalize(actions_KA, clip=self._clip))
            instructions.append(self.instructions.index(instruction))
            starts.append(start)
        return {
            "frames_BTHWC": np.stack(frames),
            "actions_BKA": np.stack(actions).astype(np.float32),
            "instruction_id_B": np.asarray(instructions, np.int32),
            "start_B": np.asarray(starts, np.int32),
        }


def _tagged(number: int) -> Any:
    return lambda window: np.array([number, window])


def resized(frames_THWC: np.ndarray, size: int) -> np.ndarray:
    """uint8 [T, size, size, 3]; frames of that size already are returned as they are."""
    if frames_THWC.shape[1:3] == (size, size):
        return frames_THWC
    resample = Image.Resampling.LANCZOS
    pictures = [Image.fromarray(frame).resize((size, size), resample) for frame in frames_THWC]
    return np.stack([np.asarray(picture) for picture in pictures])
