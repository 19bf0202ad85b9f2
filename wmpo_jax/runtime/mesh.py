"""The device mesh and where batches and replicas live on it."""

from collections.abc import Sequence
from typing import Any

import flax
import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict, FrozenConfigDict

from wmpo_jax.runtime.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))  # a batch is spread over both; tensor ranks share it


def make_mesh(config: ConfigDict | FrozenConfigDict) -> Mesh:
    """All devices as a (data, fsdp, tensor) mesh.

    Args:
      config: `config.mesh.{data,fsdp,tensor}`; -1 in at most one place means "what is left".

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    return mesh_of(jax.devices(), mesh_shape(config, jax.device_count()))


def mesh_shape(config: ConfigDict | FrozenConfigDict, devices: int) -> tuple[int, ...]:
    """Sizes of the axes on so many devices; see `make_mesh`."""
    sizes = [int(config.mesh[axis]) for axis in AXES]
    given = int(np.prod([size for size in sizes if size != -1]))
    shape = [devices // given if size == -1 else size for size in sizes]
    if sizes.count(-1) > 1 or min(shape) < 1 or int(np.prod(shape)) != devices:
        wanted = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
        raise UserError(
            f"config.mesh ({wanted}) does not fit {devices} device(s): "
            "the sizes must multiply to the number of devices, with -1 in at most one place."
        )
    return tuple(shape)


def mesh_of(devices: Sequence[Any], shape: tuple[int, ...]) -> Mesh:
    """A mesh of these devices, neighbours along each axis where the hardware has them."""
    grid = mesh_utils.create_device_mesh(shape, devices)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis over data and fsdp, the rest whole."""
    return NamedSharding(mesh, BATCH)


def replicated(mesh: Mesh) -> NamedSharding:
    """A full copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def shard_batch(mesh: Mesh, tree: Any) -> Any:
    """Places arrays with their leading axis spread over the mesh.

    Args:
      tree: arrays whose leading axis is the batch; with several hosts, this host's part of it.

    Raises:
      UserError: a leading axis is not a multiple of the devices it is spread over.
    """
    sharding = batch_sharding(mesh)
    parts = mesh.shape["data"] * mesh.shape["fsdp"]

    def place(leaf: Any) -> jax.Array:
        rows = leaf.shape[0] * jax.process_count()
        if rows % parts:
            raise UserError(_uneven(rows, parts))
        if jax.process_count() == 1:
            return jax.device_put(leaf, sharding)
        return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))

    return jax.tree.map(place, tree)


def spread_whole(mesh: Mesh, tree: Any) -> Any:
    """As `shard_batch`, for a batch that every host has whole, or that is on the mesh already."""

    def place(leaf: Any) -> jax.Array:
        parts = mesh.shape["data"] * mesh.shape["fsdp"]
        if leaf.shape[0] % parts:
            raise UserError(_uneven(leaf.shape[0], parts))
        return jax.device_put(leaf, batch_sharding(mesh))

    return jax.tree.map(place, tree)


def fetch(tree: Any) -> Any:
    """The whole of every array on every host, as NumPy; with several hosts all must call it."""

    def whole(leaf: Any) -> np.ndarray:
        if isinstance(leaf, jax.Array) and not (
            leaf.is_fully_addressable or leaf.is_fully_replicated
        ):
            return multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(leaf)

    return jax.tree.map(whole, tree)


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Places a full copy of every leaf on each device (typed PRNG keys included)."""
    return jax.device_put(tree, replicated(mesh))


def _uneven(rows: int, parts: int) -> str:
    return (
        f"A batch of {rows} cannot be spread over data x fsdp = {parts} devices: "
        f"make it a multiple of {parts} or change config.mesh."
    )


def describe(mesh: Mesh) -> str:
    """One line for the log: versions, devices, mesh."""
    device = jax.devices()[0]
    shape = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    return (
        f"jax {jax.__version__}, flax {flax.__version__}, "
        f"{jax.device_count()} x {device.device_kind} on {jax.process_count()} host(s), {shape}"
    )
