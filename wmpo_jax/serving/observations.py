"""From a robot's observation to what our policies see: one frame and one instruction."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from wmpo_jax.runtime.errors import UserError

# Where openpi's clients put the camera from outside: LIBERO's, DROID's, ours, ALOHA's. The first
# that an observation has is used; other cameras and the robot's state are not looked at.
IMAGE_KEYS = (
    "observation/image",
    "observation/exterior_image_1_left",
    "image",
    "images/cam_high",
)
PROMPT_KEY = "prompt"
SIDES = (8, 4096)  # pixels


class Seen(NamedTuple):
    """What a policy acts on: frame_HWC uint8, and the instruction in words."""

    frame_HWC: np.ndarray
    prompt: str


def read(observation: Any, default_prompt: str | None) -> Seen:
    """The frame and the instruction of an observation.

    Args:
      observation: a dict as openpi's clients send it. The image is uint8 in 0..255 or float in
        [0, 1], with its channels last or (as ALOHA's) first.
      default_prompt: of an observation without `prompt`; None where one is needed.

    Raises:
      UserError: it is no dict, or has no image, no instruction, or one of another form.
    """
    if not isinstance(observation, Mapping):
        raise UserError(
            f"An observation is a dict with an image and a prompt, not a {_kind(observation)}."
        )
    found = dict(_flat(observation))
    key = next((key for key in IMAGE_KEYS if key in found), None)
    if key is None:
        listed = ", ".join(sorted(found))[:200] or "nothing"
        raise UserError(
            f"The observation has no image: send it as {IMAGE_KEYS[0]} (or "
            f"{', '.join(IMAGE_KEYS[1:])}), this one has {listed}."
        )
    prompt = found.get(PROMPT_KEY, default_prompt)
    if not isinstance(prompt, str) or not prompt.strip():
        raise UserError(
            f"The observation has no {PROMPT_KEY}: send the instruction as text in {PROMPT_KEY!r}."
        )
    return Seen(_frame(key, found[key]), str(prompt))


def _flat(entry: Mapping[Any, Any], prefix: str = "", depth: int = 4) -> Iterator[tuple[str, Any]]:
    """Leaves of nested dicts by their keys joined with slashes, down to `depth` dicts."""
    for key, value in entry.items():
        name = f"{prefix}{str(key)[:100]}"
        if isinstance(value, Mapping) and depth > 1:
            yield from _flat(value, f"{name}/", depth - 1)
        else:
            yield name, value


def _frame(key: str, image: Any) -> np.ndarray:
    if (
        not isinstance(image, np.ndarray)
        or image.ndim != 3
        or 3 not in (image.shape[0], image.shape[2])
    ):
        raise UserError(
            f"{key} is {_kind(image)}, but must be an array of height x width x 3 pixels."
        )
    if image.shape[2] != 3:
        image = np.moveaxis(image, 0, 2)
    if not all(SIDES[0] <= side <= SIDES[1] for side in image.shape[:2]):
        raise UserError(
            f"{key} is {image.shape[0]} x {image.shape[1]} pixels, but sides must be from "
            f"{SIDES[0]} to {SIDES[1]}."
        )
    if image.dtype.kind == "f":
        if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
            raise UserError(f"{key} has float pixels outside 0..1: send uint8, or divide by 255.")
        return (255 * image).astype(np.uint8)
    if image.dtype != np.uint8:
        raise UserError(f"{key} has pixels of type {image.dtype}: send uint8, or float in 0..1.")
    return np.ascontiguousarray(image)


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    return type(value).__name__
