"""Members of the OpenVLA-OFT family that are not the discrete-token policy, distinguished by name.

The released LIBERO checkpoints of OpenVLA-OFT itself have the continuous L1 head and most also
proprioception and a wrist camera; WMPO's and SimpleVLA-RL's have none of these. Their extra parts
are separate files beside the weights; some training code also notes them in config.json.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from wmpo_jax.conversion.documents import read_config
from wmpo_jax.conversion.sources import Source
from wmpo_jax.runtime.errors import UserError

L1_HEAD = "the continuous L1 action head"
DIFFUSION = "the diffusion action head"
PROPRIO = "proprioceptive input"
FILM = "FiLM conditioning of the vision towers"
CAMERAS = "several images (wrist camera)"

FILES = {
    "noisy_action_projector*.pt": DIFFUSION,
    "action_head*.pt": L1_HEAD,
    "proprio_projector*.pt": PROPRIO,
    "vision_backbone--*.pt": FILM,
}
FLAGS = {
    "use_diffusion": DIFFUSION,
    "use_l1_regression": L1_HEAD,
    "use_proprio": PROPRIO,
    "use_film": FILM,
}
# Words of OFT's modeling code that plain OpenVLA's does not have.
CHUNKED = ("NUM_ACTIONS_CHUNK", "action_chunk", "generate_action_verl")
# Pieces of tensor names. A FiLM block wraps the original one and adds two projections of the text.
NAMES = {
    "noisy_action_projector.": DIFFUSION,
    "action_head.": L1_HEAD,
    "proprio_projector.": PROPRIO,
    ".block.attn.": FILM,
}


def check_files(source: Source) -> None:
    """Refuses weights whose neighbors or config.json tell of another variant (UserError)."""
    for folder in {source.weights.parent, source.folder or source.weights.parent}:
        for pattern, variant in FILES.items():
            if any(folder.glob(pattern)):
                _refuse(folder, variant)
        for path in sorted(folder.glob("modeling_*.py")):
            _check_decoding(path)
    config = read_config(source.folder)
    for flag, variant in FLAGS.items():
        if config.get(flag):
            _refuse(source.folder, variant)
    if config.get("num_images_in_input", 1) not in (1, None):
        _refuse(source.folder, CAMERAS)


def _check_decoding(modeling: Path) -> None:
    """OpenVLA itself generates token after token; OFT's code knows chunks of actions."""
    code = modeling.read_text(errors="replace")
    if "self.generate(" in code and not any(word in code for word in CHUNKED):
        raise UserError(
            f"This is plain OpenVLA, which generates one token after another ({modeling}), not "
            "OpenVLA-OFT with parallel decoding: take a checkpoint that was fine-tuned with OFT."
        )


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
