"""The table from the role of a tensor to its PartitionSpec; on one device every entry is whole.

A role is read off a parameter's path (`.../q_proj/kernel`), so the same table places parameters,
their averages, gradients and optimizer states, stacked by layer or not. Axes of the mesh:

    data    copies of everything, each with its part of the batch
    fsdp    parts of the batch too; parameters are split over it and gathered layer by layer
    tensor  the features inside a layer: one layer's matrices are spread over these chips
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

Spec = tuple[str | tuple[str, ...] | None, ...]

# Roles and the specs of their last dimensions; dimensions before them (layers, taps) stay whole.
ROLES: dict[str, Spec] = {
    "column": ("fsdp", "tensor"),  # matrix [in, out] that widens: its outputs are spread
    "row": ("tensor", "fsdp"),  # matrix [in, out] that comes back: its inputs are spread
    "fused": ("fsdp", None),  # queries, keys and values side by side: a cut would mix the three
    "vocabulary": (None, "fsdp"),  # [vocabulary, features]: rows are looked up, so they stay whole
    "adapter": ("fsdp", None),  # LoRA's [in, rank] and [rank, out]: the rank is small
    "whole": (),  # biases, norms, positions: kilobytes
}
ACTIVATIONS: Spec = (("data", "fsdp"),)  # the batch is spread over both; tensor ranks share it

_ROW = {"o_proj", "down_proj", "proj", "fc2", "output", "to_out"}
_FUSED = {"qkv"}
_LEAVES = {"embed_tokens": "vocabulary", "lm_head": "vocabulary", "a": "adapter", "b": "adapter"}


def role(path: str) -> str:
    """Of the parameter at `path`, such as "llama/blocks/3/q_proj/kernel"."""
    # LoRA keeps a layer's own kernel in .../linear/kernel, Muon's state one entry per layer.
    words = [word for word in path.split("/") if not word.isdigit() and word != "linear"]
    if words[-1:] == ["value"]:  # NNX keeps the array of a parameter under this name
        words.pop()
    leaf, layer = (words[-1:] or [""])[0], (words[-2:-1] or [""])[0]
    if leaf != "kernel":
        return _LEAVES.get(leaf, "whole")
    return "row" if layer in _ROW else "fused" if layer in _FUSED else "column"


def spec(path: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """Where the parameter at `path` is split.

    An axis that does not divide the dimension it is meant for goes to the largest free one that it
    does divide, or is left out (a 2-class head on 64 chips).
    """
    wanted = ROLES[role(path)]
    if len(shape) < 2 or not wanted:
        return PartitionSpec()
    matrix = len(shape) - 2
    entries: list[str | None] = [None] * len(shape)
    homeless = []
    for dimension, axis in enumerate(wanted, matrix):
        if not isinstance(axis, str) or mesh.shape[axis] == 1:
            continue
        if shape[dimension] % mesh.shape[axis] == 0:
            entries[dimension] = axis
        else:
            homeless.append(axis)
    for axis in homeless:
        free = [
            d
            for d in range(matrix, len(shape))
            if entries[d] is None and shape[d] % mesh.shape[axis] == 0
        ]
        if free:
            entries[max(free, key=lambda d: shape[d])] = axis
    return PartitionSpec(*entries)


def shardings(mesh: Mesh | AbstractMesh, tree: Any) -> Any:
    """A NamedSharding for every leaf of `tree` (arrays or shapes), by the table."""

    def place(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, spec(name, leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(place, tree)


def abstract(mesh: Mesh, tree: Any) -> Any:
    """`tree` as ShapeDtypeStructs that carry their shardings."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        tree,
        shardings(mesh, tree),
    )


def pin(mesh: Mesh, tree: Any) -> Any:
    """Inside jit: keeps every leaf where the table puts it (gradients, new parameters)."""
    return jax.lax.with_sharding_constraint(tree, shardings(mesh, tree))


@contextlib.contextmanager
def over(mesh: Mesh) -> Iterator[None]:
    """While a function is traced inside, `spread_batch` means this mesh."""
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        yield


def compiled(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit(function)`, traced `over` the mesh."""

    def traced(*arguments: Any) -> Any:
        with over(mesh):
            return function(*arguments)

    return jax.jit(traced)


def apart(mesh: Mesh | None, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with every device at work on its own rows alone; nothing is moved.

    Args:
      mesh: None leaves the function as it is.
      function: row by row independent, of and to pytrees of arrays with the batch as leading axis;
        its length is a multiple of `batch_parts`.
    """
    if mesh is None:
        return function
    rows = PartitionSpec(*ACTIVATIONS)
    return jax.shard_map(function, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)


def spread_batch(x: jax.Array) -> jax.Array:
    """Splits the leading axis as the batch is; does nothing without a mesh or if it does not fit.

    Models call it between layers: without it the partitioner sometimes splits features instead
    and moves activations in every layer.
    """
    if jax.sharding.get_abstract_mesh().empty or x.shape[0] % parts_here():
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*ACTIVATIONS))


def parts_here() -> int:
    """Into how many parts a batch is split where this is traced; 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else batch_parts(mesh)


def batch_parts(mesh: Any) -> int:
    """Into how many parts a batch is split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]
