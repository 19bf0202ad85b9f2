"""Side-by-side clips, enlarged pixel by pixel, as looping WebP animations inside the page."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wmpo_jax.report.record import RunRecord
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import load_arrays

SIDE = 192  # pixels; small frames are enlarged by a whole number to about this
GAP = 6  # between left and right
BAR = 26  # caption bar above the frames
MAX_CLIPS = 8  # of one file: the page should stay light
MAX_FRAMES = 48  # longer episodes are thinned
FRAME_MS, LAST_MS = 140, 1200  # the end is held: it shows whether the task was solved
_BACKGROUND, _TEXT, _TIME = (24, 27, 33), (236, 239, 244), (94, 168, 160)


class Clip(NamedTuple):
    """A clip ready for <img>: an animation, its last frame for reduced motion, a note."""

    animation: str
    still: str
    width: int
    height: int
    note: str


class ClipGroup(NamedTuple):
    """The clips of one file."""

    title: str
    clips: list[Clip]


# The stage that writes each file, and what the file shows.
_FILES = {
    "base_improved": ("evaluate", "Base and improved policy from the same starts"),
    "real_imagined_before": ("gates", "Reality and imagination, same actions, before RL"),
    "real_imagined_after": ("gates_after", "Reality and imagination, same actions, after RL"),
}


def clip_groups(record: RunRecord) -> list[ClipGroup]:
    """All clips that the stages left in data/videos, the known files first."""
    order = list(_FILES)
    paths = sorted(record.videos, key=lambda p: order.index(p.stem) if p.stem in order else 99)
    groups = [read_clips(path, record.outcomes) for path in paths]
    return [group for group in groups if group.clips]


def read_clips(path: Path, outcomes: Mapping[str, np.ndarray] | None = None) -> ClipGroup:
    """Renders one file.

    Args:
      outcomes: see `RunRecord`; the outcome of a start is added to its note.
      path: an .npz with `left_BTHWC` and `right_BTHWC`, uint8 of one shape, and `caption`, B
        strings such as "start 7: base | WMPO" (the note before the colon may be missing).

    Raises:
      UserError: the file is damaged, or an array is missing or has another shape or type.
    """
    stage, title = _FILES.get(path.stem, (path.stem, path.stem.replace("_", " ")))
    arrays = load_arrays(path, stage)
    missing = {"left_BTHWC", "right_BTHWC", "caption"} - set(arrays)
    if missing:
        raise UserError(f"{path} lacks {', '.join(sorted(missing))}: run stage {stage} again.")
    left, right, captions = arrays["left_BTHWC"], arrays["right_BTHWC"], arrays["caption"]
    if left.shape != right.shape or left.dtype != np.uint8 or len(captions) != len(left):
        raise UserError(
            f"{path} needs two uint8 stacks [B, T, H, W, 3] of one shape and B captions, "
            f"not {left.dtype}{list(left.shape)}, {right.dtype}{list(right.shape)} "
            f"and {len(captions)} captions: run stage {stage} again."
        )
    rows = zip(left[:MAX_CLIPS], right[:MAX_CLIPS], captions[:MAX_CLIPS], strict=True)
    return ClipGroup(title, [_clip(*row, outcomes or {}) for row in rows])


def what_became(note: str, outcomes: Mapping[str, np.ndarray]) -> str:
    """ "start 7" -> "base failed, WMPO solved it"; empty where that is not known."""
    seed = note.removeprefix("start ")
    if not {"seeds", "base_greedy", "wmpo_greedy"} <= outcomes.keys() or not seed.isdecimal():
        return ""
    rows = np.flatnonzero(outcomes["seeds"] == int(seed))
    if not len(rows):
        return ""
    base, wmpo = (bool(outcomes[f"{policy}_greedy"][rows[0]]) for policy in ("base", "wmpo"))
    if base == wmpo:
        return "both solved it" if base else "both failed"
    return "base solved it, WMPO failed" if base else "base failed, WMPO solved it"


def _clip(
    left_THWC: np.ndarray, right_THWC: np.ndarray, caption: str, outcomes: Mapping[str, np.ndarray]
) -> Clip:
    note, _, sides = str(caption).rpartition(": ")
    note = ": ".join(filter(None, (note, what_became(note, outcomes))))
    left, _, right = sides.partition(" | ")
    frames = side_by_side(left_THWC, right_THWC, (left, right))
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_MS]
    # The least effort: on enlarged pixels it is far faster than the default and no larger.
    options: dict[str, Any] = {"lossless": True, "method": 0, "quality": 0}
    animation = _data_uri(
        frames[0], save_all=True, append_images=frames[1:], duration=durations, loop=0, **options
    )
    return Clip(animation, _data_uri(frames[-1], **options), *frames[0].size, note)


def side_by_side(
    left_THWC: np.ndarray, right_THWC: np.ndarray, captions: tuple[str, str]
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
    for caption, x in zip(captions, (0, size[0] + GAP), strict=True):
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
