"""Small random checkpoints in the formats of the released ones."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from wmpo_jax.conversion.kinds import KINDS
from wmpo_jax.conversion.torch_files import save_state_dict
from wmpo_jax.models.autoencoder_kl import AutoencoderKLConfig
from wmpo_jax.models.stdit import STDiTConfig
from wmpo_jax.models.stdit.weights import rotary_frequencies, unused_shapes
from wmpo_jax.models.videomae import VideoMAEConfig
from wmpo_jax.models.vla import LlamaConfig, ViTConfig, VLAConfig

Tensors = dict[str, np.ndarray]
BFLOAT16 = jnp.dtype("bfloat16")

_DINO = ViTConfig(28, 14, 128, 3, 2, 256, class_token=True, registers=4, layer_scale=True)
CONFIGS: dict[str, Any] = {
    "policy": VLAConfig(
        dino=_DINO,
        siglip=ViTConfig(28, 14, 144, 3, 2, 80),
        llama=LlamaConfig(vocab_size=384, width=128, depth=2, heads=1, mlp_width=160),
        projector_width=64,
        chunk=8,
        action_dim=7,
        n_action_classes=256,
        n_unused_rows=64,
        stop_token=2,
        pad_token=60,
    ),
    "world_model": dataclasses.replace(
        STDiTConfig.xl_2(), hidden=48, depth=3, heads=2, dtype=jnp.float32
    ),
    "autoencoder": AutoencoderKLConfig((16, 32), 1, 4, 8, 0.13025),
    "reward": dataclasses.replace(
        VideoMAEConfig.base(),
        image_size=32,
        hidden_size=64,
        num_layers=2,
        num_heads=1,
        mlp_size=96,
        head="sigmoid",
    ),
}
STATISTICS = {
    "toy_d0": {
        "action": {
            "q01": [-0.5] * 7,
            "q99": [0.5] * 6 + [1.0],
            "min": [-1.0] * 7,
            "max": [1.0] * 7,
            "mean": [0.0] * 7,
            "std": [0.3] * 7,
            "mask": [True] * 6 + [False],
        }
    }
}
CONFIG_JSON: dict[str, Any] = {
    "policy": {
        "model_type": "openvla",
        "n_action_bins": 256,
        "pad_to_multiple_of": 64,
        "pad_token_id": 60,
        "text_config": {"model_type": "llama"},
    },
    "autoencoder": {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": [16, 32],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "sample_size": 32,
        "scaling_factor": 0.13025,
    },
    "reward": {
        "architectures": ["VideoMAEForVideoClassification"],
        "model_type": "videomae",
        "image_size": 32,
        "num_frames": 8,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "intermediate_size": 96,
        "use_mean_pooling": True,
    },
}


def tensors(
    kind: str, dtype: np.dtype | type = np.float32, seed: int = 0, config: Any = None
) -> Tensors:
    """Random values for every original name, the unused ones included."""
    rng = np.random.default_rng(seed)
    config = config or CONFIGS[kind]
    shapes: dict[str, Any] = KINDS[kind].shapes(config) | dict(KINDS[kind].dead(config))
    if kind == "world_model":
        shapes |= unused_shapes(config, 24, 5)
    made = {name: _values(rng, name, shape).astype(dtype) for name, shape in sorted(shapes.items())}
    if kind == "world_model":
        made["rope.freqs"] = rotary_frequencies(config).astype(dtype)
    return made


def _values(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Norm scales near 1, the rest small: activations stay of ordinary size."""
    scale = ("norm" in name and name.endswith("weight")) or name.endswith("scale_factor")
    return 1.0 * scale + rng.normal(size=shape) / max(shape[-1], 16) ** 0.5


def write_folder(folder: Path, kind: str, weights: Mapping[str, np.ndarray], shards: int) -> Path:
    """A Hugging Face folder: safetensors (with an index when sharded), config, statistics."""
    folder.mkdir(parents=True)
    stem = KINDS[kind].weight_stem
    if shards == 1:
        save_file(dict(weights), folder / f"{stem}.safetensors", metadata={"format": "pt"})
    else:
        write_shards(folder, weights, shards, f"{stem}-{{:05d}}-of-{shards:05d}.safetensors")
    if kind in CONFIG_JSON:
        (folder / "config.json").write_text(json.dumps(CONFIG_JSON[kind]))
    if kind == "policy":
        (folder / "dataset_statistics.json").write_text(json.dumps(STATISTICS))
    return folder


def write_tokenizer(folder: Path, words: Sequence[str]) -> None:
    """One token per word, behind the special ones of Llama's."""
    known = ["<s>", "<unk>", "</s>", "<PAD>", "In:", "Out:", *words]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(known)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore
    tokenizer.save(str(folder / "tokenizer.json"))


def write_shards(folder: Path, weights: Mapping[str, np.ndarray], n: int, pattern: str) -> Path:
    """Shards and their index; torch's own format unless the pattern ends in .safetensors."""
    weight_map = {}
    for i in range(n):
        shard, file = dict(list(weights.items())[i::n]), pattern.format(i + 1)
        if file.endswith(".safetensors"):
            save_file(shard, folder / file, metadata={"format": "pt"})
        else:
            save_state_dict(folder / file, shard)
        weight_map |= dict.fromkeys(shard, file)
    stem = pattern.partition("-")[0] + Path(pattern).suffix
    index = folder / f"{stem}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index
