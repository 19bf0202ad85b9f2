"""What a checkpoint looks like after it was brought in.

    folder/
      conversion.json   kind, and name, shape and dtype of every original tensor
      params/           Orbax: our parameters, named after their paths, in the original dtype
      unused/           Orbax: original tensors that the network never reads, for the way back
      assets/           the other files of the original folder, unchanged: config.json,
                        dataset_statistics.json, tokenizer, model code (never run here)

A folder appears whole or not at all.
"""

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx, traverse_util
from orbax.checkpoint import type_handlers

from wmpo_jax.conversion.documents import read_object, read_settings
from wmpo_jax.conversion.kinds import KINDS, Kind
from wmpo_jax.runtime import hub
from wmpo_jax.runtime.checkpoints import tree_difference
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import new_folder, save_json

RECORD = "conversion.json"
PARAMS, UNUSED, ASSETS = "params", "unused", "assets"
SHOWN = 12  # lines of a tree difference; a wrong kind differs in hundreds of places
ASSET_SUFFIXES = (".json", ".py", ".model", ".txt", ".jinja")
# Gives the sharding of a parameter from its path and shape.
Place = Callable[[str, tuple[int, ...]], jax.sharding.Sharding]


class LazyArray:
    """An array that is read when it is written out; `parts` are stacked unless there is one."""

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype,
        parts: list[Callable[[], np.ndarray]],
        stacked: bool,
    ) -> None:
        self.shape, self.dtype, self.stacked = shape, np.dtype(dtype), stacked
        self.size, self.ndim = int(np.prod(shape)), len(shape)
        self._parts = parts

    def read(self) -> np.ndarray:
        if not self.stacked:
            return np.ascontiguousarray(self._parts[0](), self.dtype)
        whole = np.empty(self.shape, self.dtype)
        for row, part in zip(whole, self._parts, strict=True):
            row[...] = part()
        return whole


class _OneByOne(type_handlers.NumpyHandler):
    """Orbax's writer of NumPy arrays, made to hold one array in memory instead of all."""

    async def _background_serialize(self, values, infos, args=None):
        for value, info, arg in zip(values, infos, args, strict=True):  # pyright: ignore
            await super()._background_serialize([value.read()], [info], [arg])


def write_arrays(folder: Path, arrays: Mapping[str, LazyArray]) -> None:
    """Writes an Orbax checkpoint of nested dicts ("a/b" is b in a), array after array."""
    registry = type_handlers.create_type_handler_registry(
        (jax.Array, type_handlers.ArrayHandler()),
        (LazyArray, _OneByOne(deepcopy_host_arrays=False)),
    )
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    nested = traverse_util.unflatten_dict(dict(arrays), sep="/")
    with _plain_errors(), ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(folder.resolve(), args=ocp.args.PyTreeSave(nested))


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Errors while Orbax writes are raised and nothing more: its threads also log tracebacks.

    Raises:
      OSError: TensorStore could not write (a full disk), which it tells as a ValueError.
    """
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    except ValueError as error:
        raise OSError(str(error).rpartition(": ")[2]) from error
    finally:
        log.setLevel(level)


class Store:
    """A converted checkpoint on disk.

    Attributes:
      folder: where it is; a leading ~ is the home folder, hf:// is downloaded.
      kind, config: of the network.
      shapes, dtypes: of every original tensor, by name.

    Raises:
      UserError: no such folder, or not one that `import` wrote.
    """

    def __init__(self, folder: Path) -> None:
        folder = hub.fetched(os.path.expanduser(folder), "model")
        if not os.path.isfile(folder / RECORD):
            raise UserError(
                f"{folder} is no converted checkpoint (it has no {RECORD}): "
                "make one with python -m wmpo_jax.convert import."
            )
        record = read_object(folder / RECORD)
        kind = record.get("kind")
        if not isinstance(kind, str) or kind not in KINDS:
            raise UserError(
                f"{folder / RECORD} has the kind {kind!r}, which is none of {', '.join(KINDS)}: "
                "import the original again."
            )
        self.folder, self.kind = folder, KINDS[kind]
        try:
            tensors = record["tensors"].items()
            self.shapes = {name: tuple(map(int, shape)) for name, (shape, _) in tensors}
            self.dtypes = {name: jnp.dtype(dtype) for name, (_, dtype) in tensors}
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise UserError(
                f"{folder / RECORD} is damaged ({error!r}): import the original again."
            ) from error
        self.config = self.kind.config(self.shapes, read_settings(folder / ASSETS))

    def arrays(self, part: str) -> dict[str, Any]:
        """Shape and dtype of every stored array of `params` or `unused`."""
        if not (self.folder / part).is_dir():
            return {}
        with _reader(self.folder) as checkpointer:
            metadata = checkpointer.metadata((self.folder / part).resolve()).item_metadata
            if metadata is None:
                raise ValueError(f"{part} has no metadata")
        return traverse_util.flatten_dict(metadata.tree, sep="/")

    def read(self, part: str, name: str) -> np.ndarray:
        """One stored array, on the host."""
        return self._restore(part, {name: ocp.RestoreArgs(restore_type=np.ndarray)})[name]

    def params(self, dtype: Any, place: Place | None = None) -> tuple[nnx.GraphDef, nnx.State]:
        """The network of this checkpoint: graph and parameters.

        Args:
          dtype: of the parameters.
          place: sharding of each parameter, from its path and shape; None: the default device.
            Each is read straight into its shards.
        """
        graphdef, variables = self.kind.abstract(self.config)
        if place is None:
            device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            place = lambda name, shape: device  # noqa: E731
        names = {path: leaf_name(path) for path in variables}
        found = self._restore(
            PARAMS,
            {
                name: ocp.ArrayRestoreArgs(sharding=place(name, variables[path].shape), dtype=dtype)
                for path, name in names.items()
            },
        )
        filled = {path: variables[path].replace(found[name]) for path, name in names.items()}
        return graphdef, nnx.from_flat_state(filled)

    def check(self, arrays: Mapping[str, Any]) -> None:
        """UserError with the differences when `arrays` are not parameters of this network."""
        _, variables = self.kind.abstract(self.config)
        wanted = {
            name: jax.ShapeDtypeStruct(
                variable.shape, arrays[name].dtype if name in arrays else np.dtype("float32")
            )
            for path, variable in variables.items()
            for name in (leaf_name(path),)
        }
        lines = tree_difference(wanted, arrays)
        if lines:
            raise UserError(
                f"These are not the parameters of {self.folder} in {len(lines)} places, "
                f"merge adapters and use the network it was loaded as:{listed(lines)}"
            )

    def _restore(self, part: str, wanted: Mapping[str, ocp.RestoreArgs]) -> dict[str, Any]:
        nested = traverse_util.unflatten_dict(dict(wanted), sep="/")
        item = jax.tree.map(lambda _: 0, nested)
        args = ocp.args.PyTreeRestore(item=item, restore_args=nested, partial_restore=True)
        with _reader(self.folder) as checkpointer:
            tree = checkpointer.restore((self.folder / part).resolve(), args=args)
        return traverse_util.flatten_dict(tree, sep="/")


@contextlib.contextmanager
def _reader(folder: Path) -> Iterator[ocp.Checkpointer]:
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            yield checkpointer
    except (ValueError, OSError, KeyError) as error:
        first = str(error).strip().partition("\n")[0][:200]
        raise UserError(f"{folder} is damaged ({first}): import the original again.") from error


def save_trained(target: Path, like: Store, params: nnx.State) -> None:
    """Writes trained parameters as a converted checkpoint that `export` can give back.

    Args:
      target: a new folder.
      like: the checkpoint that training began with; record, assets and unused tensors are its.
      params: parameters of the same network; they are stored in the dtype they have.

    Raises:
      UserError: `params` are not those of this network; the differences are listed.
    """
    arrays = {leaf_name(path): variable[...] for path, variable in nnx.to_flat_state(params)}
    like.check(arrays)
    with new_folder(target) as folder:
        for name in (UNUSED, ASSETS):
            if (like.folder / name).is_dir():
                shutil.copytree(like.folder / name, folder / name)
        nested = traverse_util.unflatten_dict(arrays, sep="/")
        with _plain_errors(), ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save((folder / PARAMS).resolve(), nested)
        shutil.copy(like.folder / RECORD, folder / RECORD)


def write_record(folder: Path, kind: Kind, infos: Mapping[str, Any]) -> None:
    """`infos`: anything with `shape` and `dtype`, by original name."""
    tensors = {name: [list(info.shape), info.dtype.name] for name, info in infos.items()}
    save_json(folder / RECORD, {"kind": kind.name, "tensors": tensors})


def copy_assets(source: Path | None, target: Path) -> list[str]:
    """Copies what is no weight and no index of weights; nothing in it is run.

    Returns the names of the files.
    """
    if source is None or not source.is_dir():
        return []
    target.mkdir(exist_ok=True)
    for path in sorted(source.iterdir()):
        index = path.name.endswith(".index.json")
        if path.is_file() and path.suffix in ASSET_SUFFIXES and not index:
            shutil.copy(path, target / path.name)
    return sorted(path.name for path in target.iterdir())


def listed(lines: list[str]) -> str:
    """The first lines of a tree difference, each on a line of its own."""
    more = [f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "".join(f"\n  {line}" for line in lines[:SHOWN] + more)


def leaf_name(path: tuple[Any, ...]) -> str:
    return "/".join(map(str, path))
