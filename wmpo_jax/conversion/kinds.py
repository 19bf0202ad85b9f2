"""The four kinds of checkpoints: which original tensor is which of our parameters.

The tables are those of `models/*/weights.py`; here they get one form, so that importing and
exporting are written once.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from wmpo_jax.conversion import sizes
from wmpo_jax.models.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from wmpo_jax.models.autoencoder_kl import weights as autoencoder_weights
from wmpo_jax.models.stdit import STDiT, STDiTConfig
from wmpo_jax.models.stdit import weights as stdit_weights
from wmpo_jax.models.videomae import VideoMAE, VideoMAEConfig
from wmpo_jax.models.videomae import weights as videomae_weights
from wmpo_jax.models.vla import VLA, VLAConfig
from wmpo_jax.models.vla import weights as vla_weights
from wmpo_jax.runtime.precision import Products

Path = tuple[Any, ...]
Shape = tuple[int, ...]
Rearrange = Callable[[np.ndarray], np.ndarray]


class Entry(NamedTuple):
    """One original tensor: its name, our path, its place in a stack, the way in and back out."""

    name: str
    path: Path
    index: int | None
    ours: Rearrange
    theirs: Rearrange


@dataclasses.dataclass(frozen=True)
class Kind:
    """What conversion has to know of a family of checkpoints.

    Attributes:
      weight_stem: what Hugging Face calls the weight file of such a folder.
      config: tensor shapes and settings (`documents.read_settings`) -> our config, computing in
        float32.
      build: config -> network (call it under `nnx.eval_shape`).
      entries: config -> every tensor that the network reads.
      dead: config -> name and shape of the tensors that it never reads (None: any shape).
      derived: config -> buffers that the original may have stored and computes with, though they
        follow from the config; name -> values.
    """

    name: str
    weight_stem: str
    config: Callable[[sizes.Shapes, sizes.Json], Any]
    build: Callable[[Any], nnx.Module]
    entries: Callable[[Any], list[Entry]]
    dead: Callable[[Any], Mapping[str, Shape | None]]
    derived: Callable[[Any], Mapping[str, np.ndarray]] = lambda config: {}

    def abstract(self, config: Any) -> tuple[nnx.GraphDef, dict[Path, nnx.Variable]]:
        """Graph and parameters as shapes; nothing is allocated."""
        return _abstract(self.build, config)

    def shapes(self, config: Any) -> dict[str, Shape]:
        """Name and shape of every original tensor that the network reads."""
        _, params = self.abstract(config)
        return {e.name: _their_shape(e, params[e.path].shape) for e in self.entries(config)}


@functools.lru_cache(maxsize=8)  # seconds for the 7-B policy, and asked for several times
def _abstract(
    build: Callable[[Any], nnx.Module], config: Any
) -> tuple[nnx.GraphDef, dict[Path, nnx.Variable]]:
    graphdef, params = nnx.split(nnx.eval_shape(lambda: build(config)), nnx.Param)
    return graphdef, dict(nnx.to_flat_state(params))


def _their_shape(entry: Entry, shape: Shape) -> Shape:
    """Of a single zero seen in that shape, so that no parameter is allocated."""
    ours = np.broadcast_to(np.float32(0), shape[entry.index is not None :])
    return entry.theirs(ours).shape


def by_path(entries: list[Entry]) -> dict[Path, list[Entry]]:
    """Entries of each of our parameters: one, or all layers of a stack in order."""
    parts: dict[Path, list[Entry]] = {}
    for entry in entries:
        parts.setdefault(entry.path, []).append(entry)
    return parts


def compute_in(config: Any, dtype: Any, products: Products = "float32") -> Any:
    """The same config with every `dtype` and `products` field, nested ones too, set to these."""
    changes = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "dtype":
            changes["dtype"] = dtype
        elif field.name == "products":
            changes["products"] = products
        elif dataclasses.is_dataclass(value):
            changes[field.name] = compute_in(value, dtype, products)
    return dataclasses.replace(config, **changes)


def _policy_entries(config: VLAConfig) -> list[Entry]:
    table = vla_weights.name_table(config)
    return [Entry(name, e.path, None, *e.layout) for name, e in table.items()]


def _policy_derived(config: VLAConfig) -> dict[str, np.ndarray]:
    """transformers before 4.32 stored each layer's rotary frequencies."""
    llama = config.llama
    size = llama.width // llama.heads
    frequencies = llama.rope_theta ** (-np.arange(0, size, 2) / size)
    layers = "language_model.model.layers.{}.self_attn.rotary_emb.inv_freq"
    return {layers.format(i): frequencies.astype(np.float32) for i in range(llama.depth)}


def _world_model_entries(config: STDiTConfig) -> list[Entry]:
    return [
        Entry(
            name,
            path,
            index,
            lambda x, read=layout.read: read(x, config),
            lambda x, write=layout.write: write(x, config),
        )
        for name, path, index, layout in stdit_weights.key_table(config)
    ]


def _world_model_dead(config: STDiTConfig) -> dict[str, Shape | None]:
    """The caption embedder may be of any size: nobody reads it."""
    shapes = stdit_weights.unused_shapes(config)
    dead = {name: None if name.startswith("y_embedder.") else s for name, s in shapes.items()}
    return dead | {stdit_weights.ROTARY_NAME: (config.head_dim // 2,)}


def _autoencoder_entries(config: AutoencoderKLConfig) -> list[Entry]:
    ours, theirs = autoencoder_weights.from_torch_layout, autoencoder_weights.to_torch_layout
    _, params = KINDS["autoencoder"].abstract(config)
    return [Entry(autoencoder_weights.diffusers_name(p), p, None, ours, theirs) for p in params]


def _reward_entries(config: VideoMAEConfig) -> list[Entry]:
    _, params = KINDS["reward"].abstract(config)
    return [
        Entry(
            videomae_weights.hugging_face_name(path),
            path,
            None,
            videomae_weights.from_torch_layout,
            lambda x, path=path: videomae_weights.to_torch_layout(x, config, path),
        )
        for path in params
    ]


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "policy",
            "model",
            sizes.policy_config,
            lambda config: VLA(config, rngs=nnx.Rngs(0)),
            _policy_entries,
            vla_weights.dead_shapes,
            _policy_derived,
        ),
        Kind(
            "world_model",
            "model",
            sizes.world_model_config,
            lambda config: STDiT(config, rngs=nnx.Rngs(0)),
            _world_model_entries,
            _world_model_dead,
            lambda config: {stdit_weights.ROTARY_NAME: stdit_weights.rotary_frequencies(config)},
        ),
        Kind(
            "autoencoder",
            "diffusion_pytorch_model",
            sizes.autoencoder_config,
            lambda config: AutoencoderKL(config, rngs=nnx.Rngs(0)),
            _autoencoder_entries,
            lambda config: {},
        ),
        Kind(
            "reward",
            "model",
            sizes.reward_config,
            lambda config: VideoMAE(config, rngs=nnx.Rngs(0)),
            _reward_entries,
            lambda config: {},
        ),
    )
}
