"""Which networks a run trains, and the weights they begin with.

Without a section `networks` in the config they are the tiny ones that fit the task. With it each
role has a size, the name of a preset of its network class ("openvla_7b"), or an imported
checkpoint, the folder that `python -m wmpo_jax.convert import` made, whose size and weights it
takes.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from wmpo_jax.agents.policy import Adapted, Lora
from wmpo_jax.conversion.companions import check_width, read_tokenizer
from wmpo_jax.conversion.kinds import compute_in
from wmpo_jax.conversion.load import load_statistics, transform_config
from wmpo_jax.conversion.store import ASSETS, Store
from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.data.transforms import ImageTransformConfig
from wmpo_jax.envs.protocol import Task
from wmpo_jax.models.autoencoder_kl import AutoencoderKLConfig
from wmpo_jax.models.layers import stack_layers
from wmpo_jax.models.stdit import STDiTConfig
from wmpo_jax.models.videomae import VideoMAEConfig
from wmpo_jax.models.vla import PromptTokenizer, VLAConfig
from wmpo_jax.runtime import sharding
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.precision import Products, choose_products
from wmpo_jax.training import state

PRESETS: dict[str, type] = {
    "policy": VLAConfig,
    "world_model": STDiTConfig,
    "autoencoder": AutoencoderKLConfig,
    "reward": VideoMAEConfig,
}


SHALLOW = 8  # layers that are compiled one by one (`models.layers`)


def released(config: ConfigDict, role: str) -> Any:
    """The config of a role's network as `networks` wants it; None where the tiny one is meant.

    Raises:
      UserError: no such preset, or no checkpoint of that kind.
    """
    if "networks" not in config:
        return None
    store = checkpoint(config, role)
    if store is not None:
        return compute_in(store.config, jnp.dtype(config.networks.dtype), products(config))
    name, family = config.networks[role], PRESETS[role]
    if not hasattr(family, name):
        raise UserError(
            f"networks.{role} = {name!r} is no preset of {family.__name__}: "
            "see the class for their names."
        )
    return compute_in(getattr(family, name)(), jnp.dtype(config.networks.dtype), products(config))


def products(config: ConfigDict) -> Products:
    """In which precision networks multiply matrices on this process's devices."""
    return choose_products(config.get("products", "auto"), jax.devices()[0].platform)


def checkpoint(config: ConfigDict, role: str) -> Store | None:
    """The imported checkpoint that a role begins with, if it does."""
    folder = config.networks.weights[role] if "networks" in config else ""
    if not folder:
        return None
    store = Store(Path(folder))
    if store.kind.name != role:
        raise UserError(f"networks.weights.{role} = {folder} is a {store.kind.name}: give another.")
    return store


def vla_config(config: ConfigDict, task: Task) -> VLAConfig:
    """Of the policy; deep networks are scanned."""
    sizes = released(config, "policy")
    if sizes is None:
        tiny = VLAConfig.tiny(task.action_dim, task.chunk, n_action_classes=config.policy.bins)
        return compute_in(tiny, jnp.float32, products(config))
    _must_fit("policy", task, action_dim=sizes.action_dim, chunk=sizes.chunk)
    return sizes if _written_out(config, "policy", sizes.llama.depth) else sizes.scanned()


def vla_transform(config: ConfigDict) -> ImageTransformConfig:
    """What the policy sees of a frame: the same for real and for imagined ones."""
    store = checkpoint(config, "policy")
    if store is not None:
        return transform_config(store, lanczos_resize=True, jpeg=False)
    sizes = released(config, "policy")
    if sizes is None:
        return ImageTransformConfig.tiny()
    return dataclasses.replace(ImageTransformConfig.openvla(), size=sizes.image_size)


def tokenizer(config: ConfigDict) -> PromptTokenizer:
    """The checkpoint's own, or the package's."""
    store = checkpoint(config, "policy")
    if store is None:
        return PromptTokenizer()
    return read_tokenizer(store.folder / ASSETS, store.config.llama.vocab_size)


def policy_statistics(config: ConfigDict, task: Task) -> ActionStatistics | None:
    """Those that an imported policy acts by; None for one that begins from nothing."""
    store = checkpoint(config, "policy")
    if store is None:
        return None
    assets = store.folder / ASSETS
    statistics = load_statistics(assets, config.networks.statistics or task.name)
    check_width(statistics, store.config.action_dim, f"dataset_statistics.json of {assets}")
    return statistics


def stdit_config(config: ConfigDict, task: Task) -> STDiTConfig:
    section, sizes = config.world_model, released(config, "world_model")
    if sizes is not None:
        _must_fit("world_model", task, action_dim=sizes.action_dim, chunk=sizes.chunk)
        if sizes.history != section.history:
            raise UserError(
                f"The world model looks {sizes.history} frames back and world_model.history is "
                f"{section.history}: make them equal."
            )
        return sizes
    tiny = STDiTConfig.tiny(2 * task.action_dim, task.chunk, section.history)
    return dataclasses.replace(
        tiny,
        products=products(config),
        in_channels=autoencoder_config(config, 1.0).latent_channels,
        patch=(section.get("patch", 2),) * 2,
        fine=section.get("fine", 0),
        copies=section.get("copies", 0),
        pixel_side=autoencoder_config(config, 1.0).patch_size if latents_are_pixels(config) else 1,
        hidden=section.hidden,
        depth=section.depth,
        heads=section.heads,
    )


def autoencoder_config(config: ConfigDict, scale: float) -> AutoencoderKLConfig:
    sizes = released(config, "autoencoder")
    if sizes is None:
        kind = config.autoencoder.get("latents", "tiny")
        tiny = getattr(AutoencoderKLConfig, kind)()
        sizes = compute_in(tiny, jnp.float32, products(config))
    return dataclasses.replace(sizes, scaling_factor=scale)


def latents_are_pixels(config: ConfigDict) -> bool:
    """Whether frames are encoded by rearranging their pixels, without a network."""
    return not autoencoder_config(config, 1.0).block_out_channels


def videomae_config(config: ConfigDict, task: Task) -> VideoMAEConfig:
    """With a (failure, success) pair of logits per instruction."""
    section, sizes = config.reward, released(config, "reward")
    labels = 2 * len(task.instructions)
    if sizes is None:
        tiny = VideoMAEConfig.tiny(section.window, task.image_size, labels)
        return compute_in(tiny, jnp.float32, products(config))
    if sizes.num_frames != section.window:
        raise UserError(
            f"The reward model sees {sizes.num_frames} frames and reward.window is "
            f"{section.window}: make them equal."
        )
    if not _written_out(config, "reward", sizes.num_layers):
        sizes = sizes.scanned()
    if sizes.num_labels == labels:
        return sizes
    return dataclasses.replace(sizes, num_labels=labels, head="softmax_pairs")


def _written_out(config: ConfigDict, role: str, depth: int) -> bool:
    """Whether a network is shallow and begins from nothing; checkpoints are read in stacks."""
    return depth <= SHALLOW and checkpoint(config, role) is None


def _must_fit(role: str, task: Task, **sizes: int) -> None:
    for name, value in sizes.items():
        if value != getattr(task, name):
            raise UserError(
                f"The {role} was made for {name} {value} and {task.name} has "
                f"{getattr(task, name)}: choose another checkpoint, size or task."
            )


def create(
    config: ConfigDict, mesh: Mesh, role: str, build: Callable[[], nnx.Module]
) -> tuple[Any, Any]:
    """(graphdef, float32 params) that training begins with, each made or read in its shards.

    A reward model whose head is for other labels keeps a fresh head and takes the rest.

    Raises:
      UserError: the checkpoint is damaged or of another network.
    """
    store = checkpoint(config, role)
    if store is None:
        return state.create(mesh, build)
    graphdef, wanted = state.abstract(mesh, build)
    loaded = _load(mesh, store)
    target = nnx.to_flat_state(wanted)
    found = dict(nnx.to_flat_state(loaded))
    fits = {path: path in found and found[path].shape == v.shape for path, v in target}
    missing = [path for path, fit in fits.items() if not fit]
    fresh: dict[Any, Any] = {}
    if missing and role == "reward" and all(path[0] == "classifier" for path in missing):
        fresh = dict(nnx.to_flat_state(state.create(mesh, build)[1]))
    elif missing:
        raise UserError(
            f"{store.folder} does not fit networks.{role} at {'/'.join(map(str, missing[0]))} and "
            f"{len(missing) - 1} other places: give the checkpoint of this network."
        )
    chosen = {p: v.replace(found[p][...] if fits[p] else fresh[p][...]) for p, v in target}
    return graphdef, nnx.from_flat_state(chosen)


def lora(config: ConfigDict) -> Lora:
    """The policy's adapters; of rank 0 where all of it is trained."""
    section = config.policy
    return Lora(section.get("lora_rank", 0), section.get("lora_alpha", Lora.alpha))


def create_policy(
    config: ConfigDict, mesh: Mesh, build: Callable[[], nnx.Module], frozen: Any
) -> Any:
    """The policy's parameters that training begins with; an `Adapted` with adapters.

    Args:
      frozen: of `frozen_policy`.
    """
    if frozen is None:
        return create(config, mesh, "policy", build)[1]
    adapters = state.create(mesh, build, nnx.LoRAParam)[1]
    return Adapted(adapters, frozen)


def policy_shapes(config: ConfigDict, mesh: Mesh, build: Callable[[], nnx.Module]) -> Any:
    """Shapes and shardings of what is trained of the policy."""
    chosen = nnx.LoRAParam if lora(config).rank else ...
    return state.abstract(mesh, build, chosen)[1]


def frozen_shapes(config: ConfigDict, mesh: Mesh, build: Callable[[], nnx.Module]) -> Any:
    """Shapes and shardings of `frozen_policy`."""
    if not lora(config).rank:
        return None
    dtype = _compute_dtype(config)
    shapes = state.abstract(mesh, build, nnx.Not(nnx.LoRAParam))[1]
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding), shapes
    )


def frozen_policy(config: ConfigDict, mesh: Mesh, build: Callable[[], nnx.Module]) -> Any:
    """What is not trained of a policy with adapters, in the type of computation; None without.

    It is the imported checkpoint, or what the seed makes: the same in every stage, so that no stage
    has to save it.
    """
    if not lora(config).rank:
        return None
    store, dtype = checkpoint(config, "policy"), _compute_dtype(config)
    if store is None:
        return state.create(mesh, build, nnx.Not(nnx.LoRAParam), dtype)[1]
    _, wanted = state.abstract(mesh, build, nnx.Not(nnx.LoRAParam))
    found = dict(nnx.to_flat_state(_load(mesh, store, dtype)))
    # add_lora puts a layer's own parameters under the name `linear`.
    return nnx.from_flat_state(
        {
            path: variable.replace(found[tuple(w for w in path if w != "linear")][...])
            for path, variable in nnx.to_flat_state(wanted)
        }
    )


def _compute_dtype(config: ConfigDict) -> Any:
    return jnp.dtype(config.networks.dtype if "networks" in config else "float32")


def _load(mesh: Mesh, store: Store, dtype: Any = jnp.float32) -> nnx.State:
    """Parameters of that type, layers stacked where the network scans them."""

    def place(name: str, shape: tuple[int, ...]) -> jax.sharding.NamedSharding:
        return jax.sharding.NamedSharding(mesh, sharding.spec(name, shape, mesh))

    def stack(params: nnx.State) -> nnx.State:
        return stack_layers(params, "blocks" if store.kind.name == "policy" else "layers")

    _, params = store.params(dtype, place)
    if store.kind.name not in ("policy", "reward"):
        return params
    places = sharding.shardings(mesh, jax.eval_shape(stack, params))
    return jax.jit(stack, out_shardings=places)(params)
