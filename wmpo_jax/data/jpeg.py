"""The JPEG round trip of the reference's imagined frames (verl/utils/libero_utils.py:36-52).

The original policy was trained on JPEG-compressed frames and its rollout compresses imagined ones
too, with TensorFlow: quality 95, halved chroma, and a decoder with the fast integer DCT. Pillow
writes the same file; of the decoders at hand simplejpeg's has that DCT, and the pixels are equal.
Pillow's own decoder uses the accurate one and differs by up to 12 levels.

It runs on the host, frame by frame: a switch for compatibility, not for speed.
"""

import io

import jax
import numpy as np
from PIL import Image

from wmpo_jax.runtime.errors import UserError

QUALITY = 95
JPEG_MAGIC = b"\xff\xd8"


def jpeg_round_trip(frame_BHWC: jax.Array) -> jax.Array:
    """uint8 [B, H, W, 3] -> the same frames after TensorFlow's JPEG; callable inside jit.

    Raises:
      UserError: simplejpeg is not installed.
    """
    require_simplejpeg()
    like = jax.ShapeDtypeStruct(frame_BHWC.shape, np.uint8)
    return jax.pure_callback(_on_host, like, frame_BHWC)


def encode(frame_HWC: np.ndarray) -> bytes:
    """The file TensorFlow writes, but for its five bytes of density information."""
    file = io.BytesIO()
    Image.fromarray(frame_HWC).save(file, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return file.getvalue()


def decode(file: bytes) -> np.ndarray:
    """uint8 [H, W, 3], with the fast integer DCT and smooth chroma of TensorFlow's default."""
    return require_simplejpeg().decode_jpeg(file, fastdct=True, fastupsample=False)


def decode_picture(file: bytes) -> np.ndarray:
    """uint8 [H, W, 3] of a JPEG (TensorFlow's pixels) or of another kind of picture.

    Raises:
      ValueError: the file is damaged.
    """
    if file.startswith(JPEG_MAGIC):
        return decode(file)
    try:
        return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    except OSError as error:
        raise ValueError(str(error)) from error


def require_simplejpeg():
    try:
        import simplejpeg
    except ImportError as error:
        raise UserError(
            "JPEG with TensorFlow's pixels needs simplejpeg: pip install 'wmpo_jax[jpeg]', or "
            "leave ImageTransformConfig.jpeg off."
        ) from error
    return simplejpeg


def _on_host(frame_BHWC: jax.Array) -> np.ndarray:
    return np.stack([decode(encode(frame_HWC)) for frame_HWC in np.asarray(frame_BHWC)])
