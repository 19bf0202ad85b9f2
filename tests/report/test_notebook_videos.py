"""What notebooks show of videos."""

import io

import numpy as np
from PIL import Image

from wmpo_jax.report.notebook_videos import GAP, LABEL, animation, strip


def video(frames: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 32, 32, 3), dtype=np.uint8)


def test_a_strip_begins_with_the_first_and_ends_with_the_last_frame():
    real, imagined = video(13, 0), video(13, 1)
    sheet = np.asarray(strip({"real": real, "imagined": imagined}, count=4))
    assert sheet.shape == (2 * (96 + GAP + LABEL) - GAP, 4 * (96 + GAP) - GAP, 3)
    enlarged = sheet[LABEL : LABEL + 96 : 3, :96:3]
    np.testing.assert_array_equal(enlarged, real[0])
    np.testing.assert_array_equal(sheet[-96::3, -96::3], imagined[-1])


def test_a_short_video_shows_all_of_its_frames():
    assert strip({"short": video(3, 2)}, count=8).width == 3 * (96 + GAP) - GAP


def test_an_animation_has_every_frame():
    left, right = video(5, 3), video(5, 4)
    with Image.open(io.BytesIO(animation(left, right, ("real", "imagined")))) as picture:
        assert (picture.format, getattr(picture, "n_frames", 1)) == ("PNG", 5)
