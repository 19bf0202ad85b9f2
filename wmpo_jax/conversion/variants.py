"""Members of the OpenVLA-OFT family that are not the discrete-token policy, told apart by name.

The released LIBERO checkpoints of OpenVLA-OFT itself have the continuous L1 head and most also
proprioception and a wrist camera; WMPO's and SimpleVLA-RL's have none of these. Their extra parts
are separate files beside the weights; some training code also notes them in config.json.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from wmpo_jax.conversion.store import read_config
from wmpo_jax.runtime.errors import UserError

L1_HEAD = "the continuous L1 action head"
DIFFUSION = "the diffusion action head"
PROPRIO = "proprioceptive input"
FILM = "FiLM conditioning of the vision towers"
CAMERAS = "several images (wrist camera)"

FILES = {
    "noisy_action_projector--*": DIFFUSION,
    "action_head--*": L1_HEAD,
    "proprio_projector--*": PROPRIO,
    "vision_backbone--*": FILM,
}
FLAGS = {
    "use_diffusion": DIFFUSION,
    "use_l1_regression": L1_HEAD,
    "use_proprio": PROPRIO,
    "use_video": FILM,
}
# Pieces of tensor names. A FiLM block wraps the original one and adds two projections of the text.
NAMES = {
    "noisy_action_projector.": DIFFUSION,
    "action_head.": L1_HEAD,
    "proprio_projector.": PROPRIO,
    ".block.attn.": FILM,
}


def check_files(source: Path) -> None:
    """Refuses a folder whose files or config.json tell of another variant (UserError)."""
    for pattern, variant in FILES.items():
        if source.is_dir() and any(source.glob(pattern)):
            _refuse(source, variant)
    config = read_config(source)
    for flag, variant in FLAGS.items():
        if config.get(flag):
            _refuse(source, variant)
    if config.get("num_images_in_input", 1) != 1:
        _refuse(source, CAMERAS)


def check_names(names: Iterable[str]) -> None:
    """Refuses tensor names of another variant (UserError)."""
    for name in names:
        for piece, variant in NAMES.items():
            if piece in f".{name}":
                _refuse(name, variant)


def _refuse(what: object, variant: str) -> NoReturn:
    raise UserError(
        f"This is the OpenVLA-OFT variant with {variant} ({what}), which is not supported: "
        "use a discrete-token checkpoint with one camera."
    )
