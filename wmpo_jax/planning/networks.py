"""The agents of a full-size config as shapes with shardings."""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from wmpo_jax.agents.autoencoder import FrameAutoencoder
from wmpo_jax.agents.policy import Policy, joined
from wmpo_jax.assembly import agents, networks
from wmpo_jax.assembly.trained import ImaginedParts
from wmpo_jax.envs.recorded import RecordedTask
from wmpo_jax.planning.collectives import Matrices
from wmpo_jax.training import state

SMALLEST = 16  # rows of what counts as a matrix: tables of a few rows stay whole
STACKS = {"blocks", "pairs"}  # what models call the layers they scan


def policy_params(config: ConfigDict, mesh: Mesh, policy: Policy) -> Any:
    """What is trained of the policy (float32), joined with what is not (LoRA, bfloat16)."""
    trained = networks.policy_shapes(config, mesh, policy.build)
    return joined(trained, networks.frozen_shapes(config, mesh, policy.build))


def autoencoder(config: ConfigDict, mesh: Mesh) -> FrameAutoencoder:
    """As stages hold it, whole on every chip."""
    shapes = state.abstract(mesh, lambda: agents.autoencoder_network(config))[1]
    return whole(mesh, agents.autoencoder(config, 1.0, shapes))


def imagined_parts(config: ConfigDict, mesh: Mesh, task: RecordedTask) -> ImaginedParts:
    """World model and reward model as imagination holds them: float32 and whole on every chip.

    Split, they would have to be gathered in each of the 30 denoising steps of each chunk.
    """
    world = state.abstract(mesh, lambda: agents.world_model_network(config, task))[1]
    reward = state.abstract(mesh, lambda: agents.reward_network(config, task))[1]
    parts = (
        agents.world_model(config, task, world, autoencoder(config, mesh)),
        agents.reward_model(config, task, reward),
        jax.ShapeDtypeStruct((), "float32"),
    )
    return whole(mesh, parts)


def whole(mesh: Mesh, tree: Any) -> Any:
    """Shapes of what every chip has a copy of."""
    place = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree
    )


def matrices(*params: Any) -> Matrices:
    """Shapes of all matrices in the stacks of scanned layers and outside them."""
    layers: dict[int, set[tuple[int, int]]] = {}
    loose: set[tuple[int, int]] = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        words = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        if leaf.ndim < 2:
            continue
        small, large = sorted(leaf.shape[-2:])
        if STACKS.isdisjoint(words):
            loose.add((small, large))
        elif leaf.ndim == 3 and small >= SMALLEST:
            layers.setdefault(leaf.shape[0], set()).add((small, large))
    return Matrices(layers, loose)
