"""Begins a run with what another has trained: other settings of later stages, nothing repeated.

    python -m wmpo_jax.main --config=configs/tiny.py --config.improve.learning_rate=3e-4 \\
        --config.improve.epochs=2 --workdir=runs/slower --base=runs/tiny

takes over the stages before the first one that reads a field that differs, here all before improve.
Files are linked where both runs are on one disk, which takes no room: no stage changes a file in
place. The other run is only read.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from wmpo_jax.runtime.config import flatten
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import load_json, load_record, save_json
from wmpo_jax.runtime.progress import say
from wmpo_jax.runtime.workdir import MACHINE_FIELDS, Ledger, Workdir, read_config
from wmpo_jax.stages.pipeline import CYCLE, OTHERS

FILE = "base.json"
# Sections of these names are read by their stage and later ones alone; all others by the first one.
_OWN = ("sft", "collect", "autoencoder", "world_model", "reward", "gates", "improve", "evaluate")
_OTHER_SECTIONS = {"monitor": "improve", "lifelong": "gates_after"}  # -> their first reader
# What a stage leaves beside its result, checkpoints and metrics.
_WRITES = {
    "demos": ("data/demos", "data/play"),
    "collect": ("data/rollouts",),
    "gates": ("data/videos/real_imagined_before.npz",),
    "improve": ("data/improve", "checkpoints/improve_best"),
    "gates_after": ("data/videos/real_imagined_after.npz",),
    "evaluate": ("data/evaluation/results.npz", "data/videos/base_improved.npz"),
}
_LENGTH = {"improve.iterations", "improve.checkpoint_every"}  # no iteration depends on them


@dataclass(frozen=True)
class Base:
    """Another run, and the stages of it that this one need not repeat.

    Attributes:
      improve_step: the iteration that stage improve goes on from; None when it begins anew.
    """

    path: Path
    stages: tuple[str, ...]
    improve_step: int | None

    def take_over(self, workdir: Workdir) -> None:
        """Links or copies their files into `workdir`; once, then it is a run like others."""
        if not all(workdir.done(stage) for stage in self.stages):
            if jax.process_index() == 0:
                self._copy(workdir)
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("base")
        say(f"{', '.join(self.stages)}: taken over from {self.path}")
        if self.improve_step is not None:
            say(f"improve: goes on from iteration {self.improve_step} of {self.path}")

    def _copy(self, workdir: Workdir) -> None:
        """Results last: whatever is interrupted before is done again."""
        save_json(workdir.path / FILE, {"run": str(self.path), "stages": self.stages})
        more = () if self.improve_step is None else ("improve",)
        for stage in (*self.stages, *more):
            names = [*_WRITES.get(stage, ()), f"metrics/{stage}.jsonl", f"metrics/{stage}"]
            step = load_record(self.path / "stages" / f"{stage}.json", stage).get("step")
            names += [] if step is None else [f"checkpoints/{stage}/{step}"]
            for name in names:
                _link(self.path / name, workdir.path / name)
        for entry in Ledger(self.path / "ledger.jsonl").read():
            if entry["stage"] in self.stages:
                workdir.ledger.append(**entry)
        for stage in self.stages:
            _link(self.path / f"stages/{stage}.json", workdir.path / f"stages/{stage}.json")


def find(path: Path, config: ConfigDict, workdir: Path) -> Base:
    """What a run of `config` in `workdir` can take over from the run at `path`.

    Raises:
      UserError: no run there, one of its results is damaged, a field that its first stage reads
        differs, nothing is left to take over, or `workdir` has begun without it.
    """
    if path == workdir:
        raise UserError(f"--base and --workdir are both {path}: give another --workdir.")
    if not path.is_dir():
        raise UserError(f"There is no run at --base={path}: correct the path.")
    old, new = flatten(read_config(path)), flatten(config)
    changed = {
        name
        for name in old.keys() | new.keys()
        if old.get(name) != new.get(name)
        and name.split(".")[0] not in (*MACHINE_FIELDS, *OTHERS, "tensorboard")
    }
    order = list(CYCLE)
    places = {name: _place(name, order) for name in sorted(changed)}
    first = min(places.values(), default=len(order))
    if first == 0:
        early = next(name for name, place in places.items() if place == 0)
        raise UserError(
            f"Nothing of {path} can be taken over, as all of its stages depend on {early}, which "
            f"was {old.get(early, 'absent')} and is {new.get(early, 'absent')}: set it as it was, "
            "or leave --base out."
        )
    stages = tuple(stage for stage in order[:first] if (path / f"stages/{stage}.json").exists())
    if not stages:
        raise UserError(f"No stage of {path} has ended: let it run first, or leave --base out.")
    _check_workdir(workdir, path)
    for stage in stages:
        load_record(path / f"stages/{stage}.json", stage)
    return Base(path, stages, _longer(path, changed, config))


def _check_workdir(workdir: Path, base: Path) -> None:
    """Whether it is new, or began with `base`."""
    if not any((workdir / "stages").glob("*.json")):
        return
    if not (workdir / FILE).exists():
        raise UserError(f"{workdir} began without --base: leave it out, or use another --workdir.")
    earlier = load_json(workdir / FILE)
    if not isinstance(earlier, dict) or earlier.get("run") != str(base):
        raise UserError(
            f"{workdir} did not begin with --base={base}: leave it out, or use another --workdir."
        )


def _place(name: str, order: list[str]) -> int:
    """Of the first stage that reads a field."""
    section = name.split(".")[0]
    reader = _OTHER_SECTIONS.get(section, section)
    return order.index(reader) if reader in _OWN or section in _OTHER_SECTIONS else 0


def _longer(path: Path, changed: set[str], config: ConfigDict) -> int | None:
    """The iteration from which only more iterations are wanted."""
    file = path / "stages" / "improve.json"
    if not file.exists() or "improve.iterations" not in changed or not changed <= _LENGTH:
        return None
    step = load_record(file, "improve", ("step",))["step"]
    return step if step < config.improve.iterations else None


def _link(source: Path, target: Path) -> None:
    """A file or a folder under another name; a copy where disks or permissions want it."""
    if source.is_dir():
        for inner in sorted(source.iterdir()):
            _link(inner, target / inner.name)
        return
    if not source.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copy2(source, temporary)
        os.replace(temporary, target)
        temporary.unlink(missing_ok=True)  # stays where both are the same file already
    except OSError as error:
        raise UserError(
            f"{source} could not be taken over to {target} ({error.strerror}): make room or "
            "correct the permissions, then give the command again."
        ) from error
