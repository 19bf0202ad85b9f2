"""PyTorch -> Orbax: checks all that can be known beforehand, then copies tensor by tensor."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from wmpo_jax.conversion import companions, store, variants
from wmpo_jax.conversion.documents import read_settings
from wmpo_jax.conversion.foreign import FLOATS, ForeignWeights
from wmpo_jax.conversion.kinds import Entry, Kind, by_path
from wmpo_jax.conversion.sources import Source, locate
from wmpo_jax.conversion.spellings import RenamedWeights
from wmpo_jax.conversion.summary import Summary, summarize
from wmpo_jax.runtime import hub
from wmpo_jax.runtime.checkpoints import tree_difference
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import new_folder


class Weights(Protocol):
    """Tensors by original name; anything with `shape` and `dtype` describes one."""

    @property
    def source(self) -> object: ...

    @property
    def infos(self) -> Mapping[str, Any]: ...

    def read(self, name: str) -> np.ndarray: ...


def import_checkpoint(kind: Kind, source: Path, target: Path) -> Summary:
    """Converts an original checkpoint into a folder as `store` describes it.

    Args:
      source: a weight file or a folder with weights, config and statistics; or where the Hub has
        one, hf://owner/name.
      target: a new folder; it appears when everything is in it.

    Raises:
      UserError: the source is damaged, not of this kind, or of a variant that is not supported.
    """
    source = hub.fetched(source, "model")
    if not os.path.exists(source):  # pathlib's raises where it may not look
        raise UserError(f"There is nothing at {source}: give the file or folder with the weights.")
    found = locate(source, kind.name)
    foreign = open_original(kind, source)
    config = original_config(kind, foreign, found)
    missing = check_tensors(kind, config, foreign)
    notes = [*foreign.notes, *companions.check(kind.name, found, config)]
    if hub.origin(source):
        notes.append(f"from {hub.origin(source)}")
    live = {entry.name for entry in kind.entries(config)}
    with new_folder(target) as folder:
        store.write_arrays(folder / store.PARAMS, lazy_params(foreign, kind, config))
        unused = {name: _whole(foreign, name) for name in foreign.infos if name not in live}
        if unused:
            store.write_arrays(folder / store.UNUSED, unused)
        beside = store.copy_assets(found.folder, folder / store.ASSETS)
        store.write_record(folder, kind, foreign.infos)
    summary = summarize(foreign.infos, live, missing)
    return dataclasses.replace(summary, read=(str(found.weights), *beside), notes=tuple(notes))


def open_original(kind: Kind, source: Path) -> RenamedWeights:
    """The weights under the names of the released checkpoints.

    Raises:
      UserError: there are none, or they are another kind's or an unsupported variant's.
    """
    foreign = ForeignWeights(source, kind.name)
    if kind.name == "policy":
        variants.check_files(foreign.found)
        variants.check_names(foreign.infos)
    return RenamedWeights(foreign, kind.name)


def original_config(kind: Kind, foreign: Weights, found: Source) -> Any:
    """Read off the original's own shapes and settings."""
    shapes = {name: info.shape for name, info in foreign.infos.items()}
    return kind.config(shapes, read_settings(found.folder))


def check_tensors(kind: Kind, config, foreign: Weights) -> list[str]:
    """Compares names, shapes and dtypes with what the network needs.

    Returns the unused tensors of the released checkpoints that this one lacks.
    """
    infos, dead, derived = foreign.infos, kind.dead(config), kind.derived(config)
    wanted = kind.shapes(config)
    wanted |= {name: derived[name].shape for name in infos.keys() & derived.keys()}
    for name in (infos.keys() & dead.keys()) - derived.keys():
        wanted[name] = dead[name] or infos[name].shape
    lines = tree_difference(
        {name: _like(shape, infos, name) for name, shape in wanted.items()}, infos
    )
    if lines:
        raise UserError(
            f"{foreign.source} does not hold the weights of a {kind.name} in {len(lines)} places, "
            f"check --kind and the files:{store.listed(lines)}"
        )
    for name in infos.keys() & derived.keys():
        _check_derived(foreign, name, derived[name])
    return sorted(dead.keys() - infos.keys())


def _like(shape: tuple[int, ...], infos: Mapping, name: str) -> jax.ShapeDtypeStruct:
    """What is expected: any float dtype is, and the one that was found if it is one."""
    found = infos[name].dtype if name in infos else np.dtype("float32")
    return jax.ShapeDtypeStruct(shape, found if found.name in FLOATS else np.dtype("float32"))


def _check_derived(foreign: Weights, name: str, ours: np.ndarray) -> None:
    """The original computes with the stored buffer, we with our own: they must agree."""
    stored = foreign.read(name).astype(np.float32)
    if not np.allclose(stored, ours, rtol=1e-2):  # bfloat16 rounds them
        raise UserError(
            f"{foreign.source} has other rotary frequencies ({name}) than its config says, "
            "which is not supported: take the config that belongs to the weights."
        )


def lazy_params(foreign: Weights, kind: Kind, config: Any) -> dict[str, store.LazyArray]:
    """Our parameters by name; those of stacked layers are put together when they are read."""
    _, variables = kind.abstract(config)
    return {
        store.leaf_name(path): store.LazyArray(
            variables[path].shape,
            common_dtype([foreign.infos[e.name].dtype for e in members]),
            [functools.partial(_read, foreign, entry) for entry in members],
            stacked=members[0].index is not None,
        )
        for path, members in by_path(kind.entries(config)).items()
    }


def _read(foreign: Weights, entry: Entry) -> np.ndarray:
    return entry.ours(foreign.read(entry.name))


def _whole(foreign: Weights, name: str) -> store.LazyArray:
    info = foreign.infos[name]
    read = functools.partial(foreign.read, name)
    return store.LazyArray(info.shape, info.dtype, [read], stacked=False)


def common_dtype(dtypes: list[np.dtype]) -> np.dtype:
    """The smallest dtype that holds all exactly."""
    return functools.reduce(jnp.promote_types, dtypes)
