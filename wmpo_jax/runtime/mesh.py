"""The device mesh and how batches and replicas are placed on it."""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict, FrozenConfigDict

from wmpo_jax.runtime import sharding
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
    """A mesh of these devices, neighbors along each axis where the hardware has them."""
    # Or an axis of 64 does not fit 16 x 16 chips.
    grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis over data and fsdp, the rest whole."""
    return NamedSharding(mesh, BATCH)


def replicated(mesh: Mesh) -> NamedSharding:
    """A full copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def spread_whole(mesh: Mesh, tree: Any) -> Any:
    """Places arrays, whole on every host or on the mesh already, with their rows spread over it.

    Args:
      tree: arrays whose leading axis is the batch.

    Raises:
      UserError: a leading axis is not a multiple of the devices it is spread over.
    """

    def place(leaf: Any) -> jax.Array:
        check_even(mesh, leaf.shape[0])
        return _put(leaf, batch_sharding(mesh))

    return jax.tree.map(place, tree)


def spread_if_even(mesh: Mesh, tree: Any) -> Any:
    """As `spread_whole` where the rows divide; a full copy on each device where they do not."""
    rows = {leaf.shape[0] % _parts(mesh) for leaf in jax.tree.leaves(tree)}
    return spread_whole(mesh, tree) if rows == {0} else replicate(mesh, tree)


def spread_padded(mesh: Mesh, tree: Any) -> Any:
    """As `spread_whole`, for any number of rows: the last one is repeated until they divide.

    The caller drops the filling from what is computed (`fetch(result)[:rows]`).
    """
    parts = _parts(mesh)

    def pad(leaf: Any) -> Any:
        missing = -leaf.shape[0] % parts
        if not missing:
            return leaf
        return np.concatenate([np.asarray(leaf), np.repeat(np.asarray(leaf[-1:]), missing, axis=0)])

    return spread_whole(mesh, jax.tree.map(pad, tree))


def host_rows(mesh: Mesh, rows: int) -> np.ndarray:
    """Which rows of a batch of `rows` the devices of this host hold: int64, ascending.

    Hosts may share rows (tensor ranks on several hosts), and a host's rows need not be neighbors
    (on TPUs the mesh follows the wires).

    Raises:
      UserError: the rows cannot be spread evenly.
    """
    check_even(mesh, rows)
    places = batch_sharding(mesh).addressable_devices_indices_map((rows,)).values()
    return np.unique([np.arange(rows)[place] for place in places if place is not None])


def spread_part(mesh: Mesh, tree: Any, rows: int) -> Any:
    """As `spread_whole`, for a batch of `rows` of which this host has its `host_rows` alone."""
    mine = host_rows(mesh, rows)

    def place(leaf: Any) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            return leaf[np.searchsorted(mine, np.arange(rows)[index[0]])]

        shape = (rows, *leaf.shape[1:])
        return jax.make_array_from_callback(shape, batch_sharding(mesh), part)

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
    return jax.tree.map(lambda leaf: _put(leaf, replicated(mesh)), tree)


def on_this_host(tree: Any) -> Any:
    """A copy of `tree` on this host's devices, for programs that each host runs by itself.

    All hosts must call it. With one host it is `tree`.
    """
    if jax.process_count() == 1:
        return tree
    here = mesh_of(jax.local_devices(), (1, jax.local_device_count(), 1))
    whole = fetch(tree)
    return jax.device_put(whole, sharding.shardings(here, whole))


def _put(leaf: Any, place: NamedSharding) -> jax.Array:
    on_mesh = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
    if place.is_fully_addressable or on_mesh:
        return jax.device_put(leaf, place)
    # device_put would first send every host the copy of the first, to compare them.
    if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
        data = _put(jax.random.key_data(leaf), place)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    host = np.asarray(leaf, jnp.result_type(leaf))  # float64 and int64 become what JAX takes
    return jax.make_array_from_callback(host.shape, place, lambda index: host[index])


def _parts(mesh: Mesh) -> int:
    return mesh.shape["data"] * mesh.shape["fsdp"]


def check_even(mesh: Mesh, rows: int, what: str = "A batch") -> None:
    """UserError when `rows` are not a multiple of the devices that a batch is spread over."""
    parts = _parts(mesh)
    if rows % parts:
        raise UserError(
            f"{what} of {rows} cannot be spread over data x fsdp = {parts} devices: "
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


def on_cpu(mesh: Mesh) -> bool:
    """Whether the mesh's devices are CPUs."""
    return mesh.devices.flat[0].platform == "cpu"


def transfer_guard() -> contextlib.AbstractContextManager[None]:
    """Around a compiled step: WMPO_TRANSFER_GUARD=disallow makes implicit transfers errors.

    The tests set it; on a user's machine a silent transfer costs time, an error the run.
    """
    return jax.transfer_guard(os.environ.get("WMPO_TRANSFER_GUARD", "allow"))
