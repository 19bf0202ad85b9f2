"""The same weights under other names: taken where the meaning is certain, else named.

Wrappers of training code put prefixes before names, and libraries have renamed layers between
versions. What cannot be meant (adapters, quantized weights, another library's layout) is refused
with what it is and what to do.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from wmpo_jax.conversion.foreign import ForeignWeights, TensorInfo
from wmpo_jax.runtime.errors import UserError

# A tensor that every checkpoint of the kind has, by which prefixes and kinds are recognized.
ANCHORS = {
    "policy": "language_model.model.embed_tokens.weight",
    "world_model": "x_embedder.proj.weight",
    "autoencoder": "encoder.conv_in.weight",
    "reward": "videomae.embeddings.patch_embeddings.projection.weight",
}
# Modules that PyTorch wraps around others (compile, FSDP, activation checkpoints, DeepSpeed).
WRAPPERS = re.compile(
    r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)
AVERAGED = "n_averaged"  # the counter of torch.optim.swa_utils.AveragedModel


class Rename(NamedTuple):
    """Another library's names of the same tensors; `names` are those that the pattern finds."""

    pattern: str
    names: Mapping[str, str]
    whose: str

    def __call__(self, name: str) -> str:
        return re.sub(self.pattern, lambda match: self.names[match[0]], name)


RENAMES = {
    "reward": Rename(
        r"(?<=\.attention\.attention\.)(query\.bias|value\.bias)$",
        {"query.bias": "q_bias", "value.bias": "v_bias"},
        "transformers 5",
    ),
    "autoencoder": Rename(
        r"(?<=\.attentions\.0\.)(query|key|value|proj_attn)(?=\.(?:weight|bias)$)",
        {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"},
        "diffusers before 0.18",
    ),
    "policy": Rename(
        r"(?<=\.ls[12]\.)(gamma)$", {"gamma": "scale_factor"}, "timm's towers before OpenVLA"
    ),
}


class Form(NamedTuple):
    """Something else than the weights of this kind, recognized by a tensor name."""

    kinds: tuple[str, ...]
    pattern: str
    what: str
    cure: str


EVERY = tuple(ANCHORS)
FORMS = (
    Form(
        EVERY,
        r"(^|\.)lora_|\.base_layer\.|modules_to_save\.",
        "a LoRA adapter that is not merged into its weights",
        "merge it with PeftModel.from_pretrained(base, adapter).merge_and_unload() of peft and "
        "save what that returns",
    ),
    Form(
        EVERY,
        r"\.(absmax|quant_map|SCB|qweight|qzeros|weight_scale(_inv)?|weight_format)$|quant_state\.",
        "quantized weights",
        "take those in bfloat16, float16 or float32",
    ),
    Form(
        ("autoencoder",),
        r"(^|\.)(encoder\.down|decoder\.up)\.\d+\.|\.mid\.(block|attn)_\d",
        "an autoencoder under the names of the original latent-diffusion (ldm) code",
        "convert it with AutoencoderKL.from_single_file(file).save_pretrained(folder) of diffusers",
    ),
    Form(
        ("reward",),
        r"(^|\.)blocks\.\d+\.attn\.(qkv|q_bias|proj)",
        "a VideoMAE under the names of its original repository",
        "convert it with convert_videomae_to_pytorch.py of transformers",
    ),
    Form(
        ("reward",),
        r"(^|\.)decoder\.decoder_layers\.|(^|\.)mask_token$",
        "a VideoMAE from pre-training, without a classifier",
        "fine-tune it as VideoMAEForVideoClassification with two labels first",
    ),
    Form(
        ("reward",),
        r"^(encoder\.layer\.0|embeddings\.patch_embeddings)\.",
        "a bare VideoMAEModel without a classifier",
        "save the VideoMAEForVideoClassification around it",
    ),
    Form(
        ("policy",),
        r"^(llm_backbone|vision_backbone\.(dino|siglip)_featurizer|projector\.projector)\.",
        "a policy in the form of Prismatic's training code",
        "convert it with vla-scripts/extern/convert_openvla_weights_to_hf.py of OpenVLA",
    ),
)


class RenamedWeights:
    """`ForeignWeights` under the names of the released checkpoints.

    Raises:
      UserError: they are not the weights of this kind; what they are and what to do is said.
    """

    def __init__(self, foreign: ForeignWeights, kind: str) -> None:
        self.source, self._foreign = foreign.source, foreign
        _refuse_forms(foreign, kind)
        self.notes = list(foreign.notes)
        self._original = self._names(kind)
        self.infos: dict[str, TensorInfo] = {
            name: foreign.infos[original] for name, original in self._original.items()
        }

    def read(self, name: str) -> np.ndarray:
        """As `ForeignWeights.read`."""
        return self._foreign.read(self._original[name])

    def _names(self, kind: str) -> dict[str, str]:
        """The name in the file by the name that is meant."""
        bare = {name: WRAPPERS.sub("", name) for name in self._foreign.infos}
        prefix = _prefix(self.source, list(bare.values()), kind)
        if prefix:
            bare = {n: m.removeprefix(prefix) for n, m in bare.items() if m != AVERAGED}
        wrapped = next((n for n, m in bare.items() if n != m), None)
        if wrapped is not None:
            self.notes.append(f"Names lost the prefixes of training code, as in {wrapped}.")
        rename = RENAMES.get(kind)
        meant = {n: rename(m) if rename else m for n, m in bare.items()}
        if rename and meant != bare:
            self.notes.append(f"Names of {rename.whose} were translated.")
        if len(set(meant.values())) < len(meant):
            raise UserError(
                f"{self.source} holds tensors twice under two names: save one state dict alone."
            )
        return {m: n for n, m in meant.items()}


def _refuse_forms(foreign: ForeignWeights, kind: str) -> None:
    for name in foreign.infos:
        for form in FORMS:
            if kind in form.kinds and re.search(form.pattern, name):
                raise UserError(f"{foreign.source} is {form.what} (it holds {name}): {form.cure}.")
    for other, anchor in ANCHORS.items():
        if other != kind and ANCHORS[kind] not in foreign.infos and anchor in foreign.infos:
            raise UserError(
                f"{foreign.source} holds a {other} (it has {anchor}), not a {kind}: "
                f"give --kind={other} or another source."
            )


def _prefix(source: object, names: list[str], kind: str) -> str:
    """What stands before every name; "" when nothing does."""
    anchor = ANCHORS[kind]
    found = [name.removesuffix(anchor) for name in names if f".{name}".endswith(f".{anchor}")]
    if len(found) > 1:
        raise UserError(
            f"{source} holds the weights more than once, under {' and '.join(map(repr, found))}: "
            "save one of these state dicts alone."
        )
    prefix = found[0] if found else ""
    strangers = [name for name in names if not name.startswith(prefix) and name != AVERAGED]
    if strangers:
        raise UserError(
            f"{source} holds the weights under {prefix!r} beside {len(strangers)} other tensors "
            f"({strangers[0]}): save the part under {prefix!r} alone."
        )
    return prefix
