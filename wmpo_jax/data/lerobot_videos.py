"""Where the episodes of a LeRobot dataset are in its video files, as far as the tables are right.

A file holds one episode after the other, and meta/episodes says at which second each begins. That
number is a sum of durations in some datasets and drifts: once it is off by more than half a frame,
every picture of the episode is its neighbor's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from wmpo_jax.data import video
from wmpo_jax.data.episodes import BadEpisode
from wmpo_jax.data.lerobot_meta import EpisodeTable, Facts


@dataclass(frozen=True)
class Part:
    """An episode's part of a video file: `begin` in seconds, `length` in frames."""

    index: int
    begin: float
    length: int


class Videos:
    """The video files of one camera. Safe to share by threads."""

    def __init__(self, root: Path, facts: Facts, episodes: EpisodeTable, camera: str) -> None:
        self._root, self._facts, self._episodes = root, facts, episodes
        self._camera = camera
        self._parts = self._by_file()
        self._misplaced = lru_cache(maxsize=None)(self._compare)

    def read(self, index: int, seconds_T: np.ndarray) -> np.ndarray:
        """uint8 [T, H, W, 3]: the frames of an episode at increasing seconds since it began.

        Raises:
          BadEpisode: there are none, or the video contradicts meta/episodes.
        """
        file = self._file(index)
        begin = self._episodes.number(index, f"videos/{self._camera}/from_timestamp")
        try:
            contradiction = self._misplaced(file).get(index)
            if contradiction is None:
                return video.read_frames(file, begin + seconds_T, self._facts.fps)
        except BadEpisode as error:
            name = file.relative_to(self._root)
            raise BadEpisode(f"its video {name} {error}") from error
        raise BadEpisode(contradiction)

    def _file(self, index: int) -> Path:
        place = self._episodes.place(index, f"videos/{self._camera}")
        return self._root / self._facts.video_path.format(video_key=self._camera, **place)

    def _by_file(self) -> dict[Path, list[Part]]:
        """The parts of every file, in the order of their beginnings."""
        parts: dict[Path, list[Part]] = {}
        for index in range(len(self._episodes)):
            try:
                begin = self._episodes.number(index, f"videos/{self._camera}/from_timestamp")
                length = self._episodes.whole(index, "length")
                if length:
                    part = Part(index, begin, length)
                    parts.setdefault(self._file(index), []).append(part)
            except BadEpisode:
                continue  # it is refused when it is read
        return {file: sorted(found, key=lambda part: part.begin) for file, found in parts.items()}

    def _compare(self, file: Path) -> dict[int, str]:
        """Why parts of a file cannot be where meta/episodes puts them, by episode."""
        parts, fps = self._parts[file], self._facts.fps
        if not _suspicious(parts, video.span(file), fps):
            return {}
        times_N = video.frame_times(file)
        return contradictions(parts, times_N, fps)


def _suspicious(parts: Sequence[Part], span: video.Span, fps: float) -> bool:
    """Whether the header alone leaves a doubt: counting frames means to read the whole file."""
    begins = np.array([part.begin for part in parts])
    lengths = np.array([part.length for part in parts])
    before = np.cumsum(lengths) - lengths
    overlap = (np.diff(begins) * fps < lengths[:-1] - 0.5).any()
    filled = span.frames in (0, lengths.sum())
    moved = np.abs((begins - span.start) * fps - before).max() > 0.5
    return bool(overlap or (filled and moved))


def contradictions(parts: Sequence[Part], times_N: np.ndarray, fps: float) -> dict[int, str]:
    """By episode, how far a part is from the place that counting gives it.

    Args:
      parts: all of one file, in the order of their beginnings.
      times_N: increasing seconds of the file's frames.
    """
    firsts = [int(np.abs(times_N - part.begin).argmin()) for part in parts]
    is_filled = sum(part.length for part in parts) == len(times_N)
    found, end = {}, 0
    for part, first in zip(parts, firsts, strict=True):
        at = f"meta/episodes lets it begin at {part.begin:.3f} s of its video (frame {first})"
        if is_filled and first != end:
            apart = abs(part.begin - times_N[end]) * fps
            found[part.index] = (
                f"{at}, and the lengths of the episodes before it at {times_N[end]:.3f} s (frame "
                f"{end}), {apart:.1f} frames apart"
            )
        elif first < end and not is_filled:
            found[part.index] = f"{at}, and the episode before it takes the frames to {end - 1}"
        end = end + part.length if is_filled else max(end, first + part.length)
    return found
