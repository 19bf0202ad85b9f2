"""Videos for notebooks, as pictures that any page shows: a strip of stills, an animation."""

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wmpo_jax.report.videos import FRAME_MS, LAST_MS, side_by_side

STILL = 96  # pixels; small frames are enlarged by a whole number to about this
GAP = 4
LABEL = 18  # above each row
_PAPER, _INK = (255, 255, 255), (60, 64, 72)


def strip(videos: Mapping[str, np.ndarray], count: int = 8) -> Image.Image:
    """One labeled row per video: its first, its last and evenly spaced frames between.

    Args:
      videos: uint8 [T, H, W, 3] by label, all of one height and width.
      count: stills per row, at most; a video of fewer frames shows all.
    """
    height, width = next(iter(videos.values())).shape[1:3]
    scale = max(1, STILL // max(height, width))
    columns = max(min(count, len(video)) for video in videos.values())
    step_x, step_y = width * scale + GAP, height * scale + GAP + LABEL
    sheet = Image.new("RGB", (columns * step_x - GAP, len(videos) * step_y - GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for row, (label, video_THWC) in enumerate(videos.items()):
        draw.text((0, row * step_y + LABEL / 2), label, fill=_INK, font=font, anchor="lm")
        moments = np.linspace(0, len(video_THWC) - 1, min(count, len(video_THWC)))
        for column, moment in enumerate(moments.round().astype(int)):
            still = Image.fromarray(video_THWC[moment])
            still = still.resize((width * scale, height * scale), Image.Resampling.NEAREST)
            sheet.paste(still, (column * step_x, row * step_y + LABEL))
    return sheet


def animation(left_THWC: np.ndarray, right_THWC: np.ndarray, captions: tuple[str, str]) -> bytes:
    """Two videos side by side, uint8 of one shape, as a looping animated PNG."""
    frames = side_by_side(left_THWC, right_THWC, captions)
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_MS]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "PNG", save_all=True, append_images=frames[1:], duration=durations, loop=0
    )
    return buffer.getvalue()
