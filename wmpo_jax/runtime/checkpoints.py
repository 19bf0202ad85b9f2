"""Checkpoints of pytrees through Orbax, with checksums and errors that say what to do.

A checkpoint has two items: `params`, which inference and later stages read alone, and `train_state`
with whatever else the training loop needs to continue. A tree is stored as nested dicts named after
its paths (`params/blocks/0/kernel`), so what is on disk does not depend on which classes
(nnx.State, optax states) held the leaves.
"""

import logging
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util

from wmpo_jax.runtime import checksums
from wmpo_jax.runtime.errors import DamagedEnd, UserError
from wmpo_jax.runtime.progress import warn

_SHOWN = 12  # lines of a tree difference; a wrong preset differs in hundreds of places
_ITEMS = ("params", "train_state")
# Its threads log, traceback by traceback, the errors that it then raises.
logging.getLogger("absl").addFilter(lambda r: "orbax" not in r.pathname or r.exc_info is None)
_print_unraisable = sys.unraisablehook


def _print_unless_late(unraisable: Any) -> None:
    """TensorStore's threads report writes that end after the one that failed closed their loop."""
    if str(unraisable.exc_value) != "Event loop is closed":
        _print_unraisable(unraisable)


sys.unraisablehook = _print_unless_late


class Checkpoints:
    """Numbered checkpoints in one folder; the newest `keep` stay.

    A save is visible only when it is complete: a process killed in the middle of it leaves the
    previous checkpoint as the latest. Checksums are verified whenever a checkpoint is read.

    Saves run in the background: `save` returns when the arrays have been copied. With 180 arrays
    of 16 kB on a CPU that is after 25 to 80 ms of the 200 ms that a save takes.

    Args:
      directory: `checkpoints/<stage>` of a workdir; messages name the stage after it.
      keep: how many checkpoints stay.
    """

    def __init__(self, directory: str | Path, keep: int = 2) -> None:
        self.directory = Path(directory).resolve()
        self._damaged: dict[int, str] = {}  # step: what is wrong with it
        self._saving: int | None = None
        # Called when all files of a save are complete, before the folder takes its final name.
        hook = ocp.options.AsyncOptions(post_finalization_callback=self._write_checksums)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            create=True,
            async_options=hook,
            lightweight_initialize=True,  # else it fails on a damaged _CHECKPOINT_METADATA
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def latest_step(self) -> int | None:
        """The newest complete checkpoint that has not been found damaged, or None."""
        self.wait()
        return max(self._intact_steps(), default=None)

    def save(self, step: int, params: Any, train_state: Any = None) -> None:
        """Writes both trees: arrays of any dtype, typed PRNG keys, Python numbers.

        Checkpoints that were found damaged, or are of `step` or later, are deleted first.

        Raises:
          UserError: some number is not finite (nothing is written then), or this save or the one
            before it could not be written.
        """
        trees = {"params": params, "train_state": train_state}
        named = {item: _named_leaves(tree) for item, tree in trees.items() if tree is not None}
        self._check_finite(step, named)
        self.wait()
        for old in self._manager.all_steps():
            if old >= step or old in self._damaged:
                self._manager.delete(old)
                self._damaged.pop(old, None)
        self._saving = step
        try:
            items = {item: ocp.args.StandardSave(_stored(tree)) for item, tree in named.items()}
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        except (ValueError, OSError) as error:
            raise self._unwritable(error) from error

    def wait(self) -> None:
        """Returns when everything is on disk; UserError when the last save could not be written."""
        try:
            self._manager.wait_until_finished()
        except (ValueError, OSError) as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """`wait`, and an end to the threads that save."""
        self.wait()
        self._manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def restore_params(self, template: Any, step: int | None = None) -> Any:
        """Reads the parameters alone, placed as the template's arrays are.

        Args:
          template: arrays or `jax.ShapeDtypeStruct`s (with shardings), structure as saved.
          step: this checkpoint and no other. By default the newest, or the one before it when the
            newest is damaged, which is then said.

        Raises:
          DamagedEnd: `step` is damaged and one before it is not.
          UserError: no such checkpoint, none that is intact, or a tree of other names, shapes or
            dtypes, with the differences listed.
        """
        return self._restore({"params": template}, step)["params"]

    def restore(
        self, params_template: Any, train_state_template: Any, step: int | None = None
    ) -> tuple[Any, Any]:
        """(params, train_state); arguments and errors as of `restore_params`."""
        templates = {"params": params_template, "train_state": train_state_template}
        found = self._restore(templates, step)
        return found["params"], found["train_state"]

    def _restore(self, templates: Mapping[str, Any], step: int | None) -> dict[str, Any]:
        self.wait()
        step = self._choose(tuple(templates), step)
        folder = self.directory / str(step)
        try:
            return {item: _read(folder / item, tree) for item, tree in templates.items()}
        except OSError as error:
            raise UserError(f"{folder} could not be read: {_first_line(error)}.") from error

    def _choose(self, items: tuple[str, ...], step: int | None) -> int:
        """The checkpoint to read: `step`, or the newest whose `items` are intact."""
        stage, steps = self.directory.name, self._manager.all_steps()
        if not steps or (step is not None and step not in steps):
            which = "no checkpoint" if step is None else f"no checkpoint {step}"
            raise UserError(f"There is {which} in {self.directory}: run stage {stage} first.")
        wanted = [step] if step is not None else sorted(steps, reverse=True)
        found = self._newest_intact(wanted, items)
        if found is None:
            reason = f"Checkpoint {self.directory / str(wanted[0])} is damaged"
            reason = f"{reason} ({self._damaged[wanted[0]]})"
            older = sorted((s for s in steps if s < wanted[-1]), reverse=True)
            before = self._newest_intact(older, _ITEMS)
            if before is not None:
                raise DamagedEnd(reason, stage, before)
            raise UserError(
                f"{reason} and there is no intact one before it: delete {self.directory} and, "
                f"where it exists, stages/{stage}.json in the workdir, and run again; stage "
                f"{stage} is repeated."
            )
        if found != wanted[0]:
            warn(
                f"checkpoint {self.directory / str(wanted[0])} is damaged "
                f"({self._damaged[wanted[0]]}): using checkpoint {found} instead"
            )
        return found

    def _newest_intact(self, steps: list[int], items: tuple[str, ...]) -> int | None:
        for step in steps:
            problem = checksums.damage(self.directory / str(step), items)
            if not problem:
                return step
            self._damaged[step] = problem
        return None

    def _intact_steps(self) -> list[int]:
        return [step for step in self._manager.all_steps() if step not in self._damaged]

    def _write_checksums(self) -> None:
        (folder,) = self.directory.glob(f"{self._saving}.orbax-checkpoint-tmp*")
        checksums.write(folder, _ITEMS)

    def _check_finite(self, step: int, named: Mapping[str, Mapping[str, Any]]) -> None:
        leaves = {f"{item}/{k}": v for item, tree in named.items() for k, v in tree.items()}
        floating = {name: leaf for name, leaf in leaves.items() if _is_floating(leaf)}
        if all_finite(list(floating.values())):
            return
        bad = [name for name, leaf in floating.items() if not all_finite([leaf])]
        stage = self.directory.name
        raise UserError(
            f"{len(bad)} of {len(floating)} arrays of stage {stage} are not finite at step {step} "
            f"(first {bad[0]}) and were not saved: lower the stage's learning rate in the config "
            "and use another --workdir."
        )

    def _unwritable(self, error: Exception) -> UserError:
        number = re.search(r"os_error_code='(\d+)'", str(error))  # as TensorStore ends its messages
        reason = os.strerror(int(number[1])) if number else _first_line(error)
        return UserError(
            f"Checkpoint {self.directory / str(self._saving)} could not be written "
            f"({reason}): make room on the disk or lift the limit on file sizes, then "
            "the same command continues from the checkpoint before it."
        )


def all_finite(leaves: list[Any]) -> bool:
    """Whether all numbers of floating arrays are finite; one reduction for those on the devices."""
    on_hosts = [leaf for leaf in leaves if not isinstance(leaf, jax.Array)]
    if not all(np.isfinite(np.asarray(leaf, np.float64)).all() for leaf in on_hosts):
        return False
    # Arrays of one device each and arrays over several hosts cannot enter the same program.
    programs: dict[Any, list[jax.Array]] = {}
    for leaf in leaves:
        if isinstance(leaf, jax.Array):
            devices = tuple(d.id for d in leaf.sharding.device_set)
            programs.setdefault(frozenset(devices), []).append(leaf)
    return all(bool(jax.device_get(_all_finite(arrays))) for arrays in programs.values())


@jax.jit
def _all_finite(arrays: list[jax.Array]) -> jax.Array:
    return jnp.stack([jnp.isfinite(array).all() for array in arrays]).all()


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


def _read(folder: Path, template: Any) -> Any:
    """One item of a checkpoint, like `template`."""
    named = _named_leaves(template)
    wanted = {name: _abstract(leaf) for name, leaf in named.items()}
    # Not through the manager, which would want the step's own metadata; they have no checksum.
    handler = ocp.StandardCheckpointHandler()
    stored: Any = handler.metadata(epath.Path(folder)).tree
    lines = tree_difference(wanted, traverse_util.flatten_dict(stored, sep="/"))
    if lines:
        more = [f"... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        raise UserError(
            f"Checkpoint {folder} holds another tree than this config builds, use the config it "
            "was made with:\n  " + "\n  ".join(lines[:_SHOWN] + more)
        )
    nested = traverse_util.unflatten_dict(wanted, sep="/")
    found = handler.restore(epath.Path(folder), args=ocp.args.StandardRestore(nested))
    leaves = traverse_util.flatten_dict(found, sep="/")
    restored = [_like(leaves[name], leaf) for name, leaf in named.items()]
    return jax.tree.unflatten(jax.tree.structure(template), restored)


def _stored(named: Mapping[str, Any]) -> Any:
    """What Orbax is given: nested dicts of arrays."""
    leaves = {name: _storable(leaf) for name, leaf in named.items()}
    if jax.process_count() == 1:
        leaves = jax.device_get(leaves)  # halves the time of a save of many small arrays
    return traverse_util.unflatten_dict(leaves, sep="/")


def _describe(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name}[{','.join(map(str, leaf.shape))}]"


def _named_leaves(tree: Any) -> dict[str, Any]:
    """Leaves by path; a tree that is a single array is called `array`."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    name = jax.tree_util.keystr
    return {name(path, simple=True, separator="/") or "array": leaf for path, leaf in paths}


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) and jnp.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    )


def _is_floating(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype if hasattr(leaf, "dtype") else type(leaf), jnp.floating)


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
