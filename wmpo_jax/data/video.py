"""Frames in and out of video files, through PyAV (FFmpeg)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wmpo_jax.data.episodes import BadEpisode
from wmpo_jax.data.extras import require
from wmpo_jax.runtime.errors import UserError

KEYFRAME_EVERY = 2  # frames, as LeRobot does: a window is read without decoding what is before it


def read_frames(path: Path, seconds_T: np.ndarray, fps: float) -> np.ndarray:
    """uint8 [T, H, W, 3]: the frames shown at increasing times.

    Args:
      seconds_T: presentation times in the file.
      fps: of the file; a frame may lie half of its duration beside the time asked for.

    Raises:
      BadEpisode: the file is missing or damaged, or has no frame at one of the times.
    """
    av = require("av")
    found: list[np.ndarray] = []
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            begin = int(max(seconds_T[0] - 0.5 / fps, 0.0) / stream.time_base)
            container.seek(begin, stream=stream)
            for frame in container.decode(stream):
                while len(found) < len(seconds_T) and _shows(frame, seconds_T[len(found)], fps):
                    found.append(frame.to_ndarray(format="rgb24"))
                if len(found) == len(seconds_T):
                    return np.stack(found)
    except (av.FFmpegError, OSError, IndexError, ValueError) as error:
        raise BadEpisode(f"the video {path} cannot be decoded ({error})") from error
    raise BadEpisode(f"the video {path} has no frame at {seconds_T[len(found)]:.3f} s")


def _shows(frame: Any, second: float, fps: float) -> bool:
    return frame.time is not None and abs(frame.time - second) <= 0.5 / fps


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
