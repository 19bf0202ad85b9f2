"""Orbax -> PyTorch: files that the original code loads, written one tensor at a time."""

import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wmpo_jax.conversion import store, torch_files
from wmpo_jax.conversion.importing import common_dtype
from wmpo_jax.conversion.kinds import Entry, by_path
from wmpo_jax.conversion.sources import TORCH_SUFFIXES
from wmpo_jax.conversion.summary import Summary, summarize
from wmpo_jax.runtime.files import claimed, new_folder, save_json

SHARD_BYTES = 5 * 10**9  # as Hugging Face cuts them
CODES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


class Outgoing(NamedTuple):
    """One tensor on its way out."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize


def export_checkpoint(source: store.Store, target: Path, shard_bytes: int = SHARD_BYTES) -> Summary:
    """Writes a converted checkpoint in the original's names, layouts and dtypes.

    Args:
      source: as `import` or `store.save_trained` left it. What training has turned into another
        dtype goes out in that dtype, the rest in the dtype it came in.
      target: `file.safetensors`, `file.pt` or `file.pth` for one file of weights; else a new
        folder with Hugging Face's names, shards of at most `shard_bytes`, and all other files.

    Raises:
      UserError: the checkpoint is damaged or there is something at `target`.
    """
    tensors = outgoing(source)
    if target.suffix == ".safetensors":
        with claimed(target) as path:
            write_safetensors(path, tensors)
    elif target.suffix in TORCH_SUFFIXES:
        with claimed(target) as path:
            torch_files.save_state_dict(path, {name: x.read() for name, x in tensors.items()})
    else:
        with new_folder(target) as folder:
            write_folder(folder, source.kind.weight_stem, tensors, shard_bytes)
            store.copy_assets(source.folder / store.ASSETS, folder)
    live = {entry.name for entry in source.kind.entries(source.config)}
    missing = source.kind.dead(source.config).keys() - tensors.keys()
    return summarize(tensors, live, sorted(missing))


def outgoing(source: store.Store) -> dict[str, Outgoing]:
    """Every tensor by original name, those of one stack after each other."""
    cache, stored = _LastArray(source), source.arrays(store.PARAMS)
    source.check(stored)
    tensors: dict[str, Outgoing] = {}
    for path, members in by_path(source.kind.entries(source.config)).items():
        name = store.leaf_name(path)
        imported = common_dtype([source.dtypes[entry.name] for entry in members])
        unchanged = np.dtype(stored[name].dtype) == imported
        for entry in members:
            dtype = source.dtypes[entry.name] if unchanged else np.dtype(stored[name].dtype)
            tensors[entry.name] = Outgoing(
                source.shapes[entry.name], dtype, _reader(cache, name, entry, dtype)
            )
    for name in source.arrays(store.UNUSED):
        read = functools.partial(source.read, store.UNUSED, name)
        tensors[name] = Outgoing(source.shapes[name], source.dtypes[name], read)
    return tensors


class _LastArray:
    """Reads arrays of `params`, keeping the last: the layers of a stack follow each other."""

    def __init__(self, source: store.Store) -> None:
        self._source, self._name, self._array = source, "", np.empty(0)

    def __call__(self, name: str) -> np.ndarray:
        if name != self._name:
            self._array = np.empty(0)  # never two large arrays at once
            self._name, self._array = name, self._source.read(store.PARAMS, name)
        return self._array


def _reader(
    cache: _LastArray, leaf: str, entry: Entry, dtype: np.dtype
) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        array = cache(leaf)
        return entry.theirs(array if entry.index is None else array[entry.index]).astype(dtype)

    return read


def write_safetensors(path: Path, tensors: Mapping[str, Outgoing]) -> None:
    """The safetensors format: length of the header, header, values in the header's order."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        code, shape = CODES[tensor.dtype.name], list(tensor.shape)
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor.read()).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def write_folder(
    folder: Path, stem: str, tensors: Mapping[str, Outgoing], shard_bytes: int
) -> None:
    shards = list(_shards(tensors, shard_bytes))
    if len(shards) == 1:
        write_safetensors(folder / f"{stem}.safetensors", tensors)
        return
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        name = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / name, shard)
        weight_map |= dict.fromkeys(shard, name)
    size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    save_json(folder / f"{stem}.safetensors.index.json", index)


def _shards(tensors: Mapping[str, Outgoing], limit: int) -> Iterator[dict[str, Outgoing]]:
    shard: dict[str, Outgoing] = {}
    size = 0
    for name, tensor in tensors.items():
        if shard and size + tensor.nbytes > limit:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard
