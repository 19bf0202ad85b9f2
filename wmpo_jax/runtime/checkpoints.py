"""Checkpoints of any pytree through Orbax, with errors a person can act on.

A tree is stored as nested dicts named after its paths (`params/blocks/0/kernel`), so what is on
disk does not depend on which classes (nnx.State, optax states) held the leaves.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util

from wmpo_jax.runtime.errors import UserError

_SHOWN = 12  # lines of a tree difference; a wrong preset differs in hundreds of places


class Checkpoints:
    """Numbered checkpoints in one folder; the newest `keep` stay.

    A save is visible only when it is complete: a process killed in the middle of it leaves the
    previous checkpoint as the latest.
    """

    def __init__(self, directory: str | Path, keep: int = 2) -> None:
        self.directory = Path(directory).resolve()
        # Synchronous: 0.1-0.3 s for the small trees; on large ones Orbax writes shards in parallel.
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=True, enable_async_checkpointing=False
        )
        self._manager = ocp.CheckpointManager(
            self.directory, options=options, item_handlers=ocp.StandardCheckpointHandler()
        )

    def latest_step(self) -> int | None:
        """The newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, tree: Any) -> None:
        """Writes `tree`: arrays of any dtype, typed PRNG keys, Python numbers."""
        leaves = {name: _storable(leaf) for name, leaf in _named_leaves(tree).items()}
        if jax.process_count() == 1:
            leaves = jax.device_get(leaves)  # halves the time of a save of many small arrays
        nested = traverse_util.unflatten_dict(leaves, sep="/")
        self._manager.save(step, args=ocp.args.StandardSave(nested), force=True)

    def restore(self, template: Any, step: int | None = None) -> Any:
        """Reads a tree like `template`, placed as the template's arrays are.

        Args:
          template: arrays or `jax.ShapeDtypeStruct`s (with shardings), structure as saved.
          step: which checkpoint; the latest by default.

        Raises:
          UserError: no such checkpoint, damaged files, or a tree of other names, shapes or
            dtypes, with the differences listed.
        """
        step = self.latest_step() if step is None else step
        if step is None or step not in self._manager.all_steps():
            which = "no checkpoint" if step is None else f"no checkpoint {step}"
            raise UserError(
                f"There is {which} in {self.directory}: run stage {self.directory.name} first."
            )
        named = _named_leaves(template)
        wanted = {name: _abstract(leaf) for name, leaf in named.items()}
        try:
            self._check_same_tree(step, wanted)
            nested = traverse_util.unflatten_dict(wanted, sep="/")
            found = self._manager.restore(step, args=ocp.args.StandardRestore(nested))
        except (ValueError, OSError, KeyError) as error:
            raise UserError(
                f"Checkpoint {self.directory / str(step)} is damaged ({_first_line(error)}): "
                "delete that folder and run again to continue from the one before it."
            ) from error
        leaves = traverse_util.flatten_dict(found, sep="/")
        restored = [_like(leaves[name], leaf) for name, leaf in named.items()]
        return jax.tree.unflatten(jax.tree.structure(template), restored)

    def _check_same_tree(self, step: int, wanted: dict[str, jax.ShapeDtypeStruct]) -> None:
        stored = traverse_util.flatten_dict(self._manager.item_metadata(step).tree, sep="/")
        lines = tree_difference(wanted, stored)
        if lines:
            more = [f"... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
            raise UserError(
                f"Checkpoint {self.directory / str(step)} holds another tree than this config "
                "builds, use the config it was made with:\n  " + "\n  ".join(lines[:_SHOWN] + more)
            )


def tree_difference(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """One line per leaf, `path: expected float32[3,4], found float32[3,5]`, [] when equal.

    Args:
      expected, found: leaves by path; anything with `shape` and `dtype`.
    """
    lines = []
    for name in sorted(expected.keys() | found.keys()):
        sides = [_describe(tree[name]) if name in tree else "nothing" for tree in (expected, found)]
        if sides[0] != sides[1]:
            lines.append(f"{name}: expected {sides[0]}, found {sides[1]}")
    return lines


def _describe(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name}[{','.join(map(str, leaf.shape))}]"


def _named_leaves(tree: Any) -> dict[str, Any]:
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) and jnp.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    )


def _storable(leaf: Any) -> jax.Array | np.ndarray:
    """Orbax stores neither typed keys nor bare Python numbers, nor arrays of one host of many."""
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    on_one_host = jax.process_count() > 1 and getattr(leaf, "is_fully_addressable", True)
    return leaf if isinstance(leaf, jax.Array) and not on_one_host else np.asarray(leaf)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    if _is_key(leaf):
        return jax.eval_shape(jax.random.key_data, leaf)
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    array = np.asarray(leaf)
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _like(value: Any, template: Any) -> Any:
    if _is_key(template):
        return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(template))
    if isinstance(template, jax.Array | jax.ShapeDtypeStruct):
        return jnp.asarray(value)
    return np.asarray(value) if isinstance(template, np.ndarray) else type(template)(value)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
