"""Frames in and out of video files, through PyAV (FFmpeg)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wmpo_jax.data.causes import unreadable
from wmpo_jax.data.episodes import BadEpisode
from wmpo_jax.data.extras import require
from wmpo_jax.runtime.errors import UserError

KEYFRAME_EVERY = 2  # frames, as LeRobot does: a window is read without decoding what is before it
# Of a frame's duration: a frame further from its time may as well be a neighbor's, misplaced.
TOLERANCE = 1 / 3
EXACT = 1e-4  # seconds, LeRobot's own tolerance: tables round their times to float32
APART = 1.0  # seconds between two times from which on the second is sought anew
# Seconds before the first time at which to begin. A seek may land behind its target: containers
# index frames by decoding order, and pictures before an open group's keyframe cannot be decoded
# without the group before it.
BACK = (0.0, 1.0, 5.0, 25.0)


@dataclass(frozen=True)
class Span:
    """What a video's header says: frames (0 when unknown) and the seconds of the first."""

    frames: int
    start: float


def read_frames(path: Path, seconds_T: np.ndarray, fps: float) -> np.ndarray:
    """uint8 [T, H, W, 3]: the frames nearest to increasing times.

    Args:
      seconds_T: presentation times in the file.
      fps: of the file; a third of a frame's duration is the most that a frame may lie beside its
        time.

    Raises:
      BadEpisode: the file is missing or damaged, or has no frame at one of the times. The message
        lacks its subject, the file, which the caller puts before it.
    """
    av = require("av")
    cuts = np.flatnonzero(np.diff(seconds_T) > APART) + 1
    try:
        frames = [f for run_T in np.split(seconds_T, cuts) for f in _sought(path, run_T)]
        _check_distances(frames, seconds_T, fps)
        pictures = {f.pts: f.to_ndarray(format="rgb24", threads=1) for f in frames}
    except (av.FFmpegError, OSError, IndexError, ValueError) as error:
        raise BadEpisode(unreadable(path, error, "decoded")) from error
    return np.stack([pictures[frame.pts] for frame in frames])


def _check_distances(frames: Sequence[Any], seconds_T: np.ndarray, fps: float) -> None:
    for frame, second in zip(frames, seconds_T, strict=True):
        distance = abs(frame.time - second) * fps
        if distance > TOLERANCE:
            raise BadEpisode(
                f"has no frame at {second:.3f} s: the nearest is at {frame.time:.3f} s, "
                f"{distance:.2f} of a frame's duration away"
            )


def _sought(path: Path, seconds_T: np.ndarray) -> list[Any]:
    """The frames nearest to the times, from the latest place at which decoding can begin."""
    for back in BACK:
        if seconds_T[0] - back <= 0:
            break
        try:
            frames = _after_seek(path, seconds_T, seconds_T[0] - back)
        except (require("av").FFmpegError, ValueError):
            continue
        if frames:
            return frames
    with require("av").open(str(path)) as container:
        return _nearest(container.decode(_stream(container)), seconds_T)


def _after_seek(path: Path, seconds_T: np.ndarray, target: float) -> list[Any]:
    """As `_sought`, from the keyframe before `target`; [] when that is behind the first time."""
    with require("av").open(str(path)) as container:
        stream = _stream(container)
        container.seek(int(target / stream.time_base), stream=stream)
        frames = container.decode(stream)
        for frame in frames:
            if frame.time is None or frame.time > seconds_T[0] + EXACT:
                return []
            # What comes before it may have been decoded without the frames that it builds on.
            if frame.key_frame:
                found = _nearest(_chain(frame, frames), seconds_T)
                return [] if any(frame.is_corrupt for frame in found) else found
        return []


def _chain(first: Any, others: Iterable[Any]) -> Iterator[Any]:
    yield first
    yield from others


def _nearest(frames: Iterable[Any], seconds_T: np.ndarray) -> list[Any]:
    """One of the frames, which come in the order of their times, for each time."""
    chosen: list[Any] = []
    before = None
    for frame in frames:
        if frame.time is None:
            continue
        while frame.time >= seconds_T[len(chosen)] - EXACT:
            second = seconds_T[len(chosen)]
            nearer = before is not None and second - before.time < frame.time - second
            chosen.append(before if nearer else frame)
            if len(chosen) == len(seconds_T):
                return chosen
        before = frame
    if before is None:
        raise ValueError("it holds no frames")
    return chosen + [before] * (len(seconds_T) - len(chosen))


def _stream(container: Any) -> Any:
    if not container.streams.video:
        raise ValueError("it holds no video")
    stream = container.streams.video[0]
    # A window is a few frames: starting FFmpeg's threads costs more than they bring, here and in
    # `to_ndarray`, and the loader has its own.
    stream.codec_context.thread_count = 1
    return stream


def span(path: Path) -> Span:
    """Reads the header alone. Raises BadEpisode as `read_frames` does."""
    av = require("av")
    try:
        with av.open(str(path)) as container:
            stream = _stream(container)
            return Span(stream.frames, float((stream.start_time or 0) * stream.time_base))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise BadEpisode(unreadable(path, error, "decoded")) from error


def frame_times(path: Path) -> np.ndarray:
    """float64 [N], the seconds of all frames in increasing order, without decoding them.

    Reads the whole file. Raises BadEpisode as `read_frames` does.
    """
    av = require("av")
    try:
        with av.open(str(path)) as container:
            stream = _stream(container)
            packets = container.demux(stream)
            stamps = [p.pts for p in packets if p.pts is not None and not p.is_discard]
            return np.sort(np.asarray(stamps, np.float64)) * float(stream.time_base)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise BadEpisode(unreadable(path, error, "decoded")) from error


def write_frames(path: Path, episodes: Iterator[np.ndarray], fps: float) -> None:
    """Writes videos one after the other into one H.264 file, in nearly lossless quality.

    Args:
      episodes: uint8 [T, H, W, 3] each.
      fps: frames per second, a whole number.

    Raises:
      UserError: frames of different sizes, or with an odd side.
    """
    av = require("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=round(fps))
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "10", "g": str(KEYFRAME_EVERY)}
        size = None
        for frame_HWC in (frame for frames_THWC in episodes for frame in frames_THWC):
            if size is None:
                size = stream.height, stream.width = frame_HWC.shape[:2]
            if frame_HWC.shape[:2] != size or size[0] % 2 or size[1] % 2:
                raise UserError(
                    f"A frame of {list(frame_HWC.shape[:2])} pixels does not fit into a video of "
                    f"{list(size)}: all must have one size with even sides."
                )
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), "rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
