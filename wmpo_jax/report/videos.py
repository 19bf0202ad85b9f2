"""Side-by-side clips, enlarged pixel by pixel, as looping WebP animations inside the page."""

import base64
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wmpo_jax.report.record import RunRecord
from wmpo_jax.runtime.errors import UserError

SIDE = 192  # pixels; small frames are enlarged by a whole number to about this
GAP = 6  # between left and right
BAR = 26  # caption bar above the frames
MAX_CLIPS = 6  # of one file: the page should stay light
MAX_FRAMES = 48  # longer episodes are thinned
FRAME_MS, LAST_MS = 140, 1200  # the end is held: it shows whether the task was solved
_BACKGROUND, _TEXT, _TIME = (24, 27, 33), (236, 239, 244), (94, 168, 160)


class Clip(NamedTuple):
    """A clip ready for <img>: an animation and its last frame for those who want no motion."""

    animation: str
    still: str
    width: int
    height: int


class ClipGroup(NamedTuple):
    """The clips of one file; `left` and `right` say what the halves show."""

    title: str
    left: str
    right: str
    clips: list[Clip]


def clip_groups(record: RunRecord) -> list[ClipGroup]:
    """All clips that the stages left in data/videos."""
    return [read_clips(path) for path in record.videos]


def read_clips(path: Path) -> ClipGroup:
    """Renders one file.

    Args:
      path: an .npz with `left_BTHWC` and `right_BTHWC`, uint8 of one shape, and `caption`, two
        strings for left and right, such as `["real", "imagined"]`.

    Raises:
      UserError: an array is missing or has another shape or type.
    """
    with np.load(path, allow_pickle=False) as file:
        missing = {"left_BTHWC", "right_BTHWC", "caption"} - set(file.files)
        if missing:
            raise UserError(f"{path} lacks {', '.join(sorted(missing))}: run its stage again.")
        left, right, caption = file["left_BTHWC"], file["right_BTHWC"], file["caption"]
    if left.shape != right.shape or left.ndim != 5 or left.dtype != np.uint8 or caption.size != 2:
        raise UserError(
            f"{path} needs two uint8 stacks [B, T, H, W, 3] of one shape and two captions, "
            f"not {left.dtype}{list(left.shape)}, {right.dtype}{list(right.shape)} "
            f"and {caption.size} captions: run its stage again."
        )
    names = tuple(str(name) for name in caption.ravel())
    clips = [_clip(*pair, names) for pair in zip(left[:MAX_CLIPS], right[:MAX_CLIPS])]
    return ClipGroup(path.stem.replace("_", " "), names[0], names[1], clips)


def _clip(left_THWC: np.ndarray, right_THWC: np.ndarray, captions: tuple[str, ...]) -> Clip:
    frames = side_by_side(left_THWC, right_THWC, captions)
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_MS]
    options: dict[str, Any] = {"lossless": True, "method": 4}
    animation = _data_uri(
        frames[0], save_all=True, append_images=frames[1:], duration=durations, loop=0, **options
    )
    return Clip(animation, _data_uri(frames[-1], **options), *frames[0].size)


def side_by_side(
    left_THWC: np.ndarray, right_THWC: np.ndarray, captions: tuple[str, ...]
) -> list[Image.Image]:
    """Composes RGB frames: a caption bar, left and right enlarged, a line that shows the time.

    Args:
      left_THWC, right_THWC: uint8 of one shape.
      captions: what left and right are.
    """
    count, height, width, _ = left_THWC.shape
    scale = max(1, SIDE // max(height, width))
    size = (width * scale, height * scale)
    blank = Image.new("RGB", (2 * size[0] + GAP, BAR + size[1] + 3), _BACKGROUND)
    font = ImageFont.load_default(size=14)
    draw = ImageDraw.Draw(blank)
    for caption, x in zip(captions, (0, size[0] + GAP)):
        draw.text((x + 6, BAR / 2), caption, fill=_TEXT, font=font, anchor="lm")
    frames = []
    chosen = np.unique(np.linspace(0, count - 1, min(count, MAX_FRAMES)).round().astype(int))
    for index in chosen:
        frame = blank.copy()
        for video, x in ((left_THWC, 0), (right_THWC, size[0] + GAP)):
            enlarged = Image.fromarray(video[index]).resize(size, Image.Resampling.NEAREST)
            frame.paste(enlarged, (x, BAR))
        elapsed = round(frame.width * (index + 1) / count)
        ImageDraw.Draw(frame).rectangle((0, frame.height - 3, elapsed, frame.height), fill=_TIME)
        frames.append(frame)
    return frames


def _data_uri(image: Image.Image, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", **options)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
