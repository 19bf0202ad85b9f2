"""The device mesh and where batches and replicas live on it."""

from typing import Any

import flax
import jax
import numpy as np
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
    sizes = [int(config.mesh[axis]) for axis in AXES]
    devices = jax.device_count()
    given = int(np.prod([size for size in sizes if size != -1]))
    shape = [devices // given if size == -1 else size for size in sizes]
    if sizes.count(-1) > 1 or min(shape) < 1 or int(np.prod(shape)) != devices:
        wanted = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
        raise UserError(
            f"config.mesh ({wanted}) does not fit {devices} device(s): "
            "the sizes must multiply to the number of devices, with -1 in at most one place."
        )
    return jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Auto,) * 3)


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
            raise UserError(
                f"A batch of {rows} cannot be spread over data x fsdp = {parts} devices: "
                f"make it a multiple of {parts} or change config.mesh."
            )
        if jax.process_count() == 1:
            return jax.device_put(leaf, sharding)
        return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))

    return jax.tree.map(place, tree)


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Places a full copy of every leaf on each device (typed PRNG keys included)."""
    return jax.device_put(tree, replicated(mesh))


def describe(mesh: Mesh) -> str:
    """One line for the log: versions, devices, mesh."""
    device = jax.devices()[0]
    shape = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    return (
        f"jax {jax.__version__}, flax {flax.__version__}, "
        f"{jax.device_count()} x {device.device_kind} on {jax.process_count()} host(s), {shape}"
    )
