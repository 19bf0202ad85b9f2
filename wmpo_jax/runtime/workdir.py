"""The folder of one run, and who has finished what in it.

workdir/
  config.json  layout.json  ledger.jsonl  stages/<stage>.json  data/<name>/  checkpoints/<name>/
  metrics/*.jsonl  report/index.html
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Self

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict, FrozenConfigDict

from wmpo_jax.runtime.config import flatten
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import (
    atomic_write,
    load_json,
    load_lines,
    load_record,
    save_json,
    save_record,
)

MIN_FREE_BYTES = 200 * 2**20  # a tiny run leaves about 100 MB
LAYOUT = 2  # of the folder; a workdir of another layout is refused
# Where a run computes and who hears of it may change between two starts; what it computes may not.
MACHINE_FIELDS = ("mesh", "cpu_devices", "writers")


class Workdir:
    """One run's folder; made on first use.

    It belongs to a config from its first checkpoint or result on: what failed before that, or was
    stopped, leaves nothing that a corrected command would have to delete.

    Args:
      path: the folder.
      config: the run's config, written to config.json and compared with what is there.

    Raises:
      UserError: not writable, less than 200 MB free, made with another config or by an older
        version, or one of its small files (config, results, ledger) is damaged.
    """

    def __init__(self, path: str | Path, config: ConfigDict | FrozenConfigDict) -> None:
        self.path = _resolved(path)
        self.metrics = self.path / "metrics"
        self.report = self.path / "report"
        self.ledger = Ledger(self.path / "ledger.jsonl")
        _check_writable(self.path)
        if self._begun():
            _check_same_config(self.path, flatten(read_config(self.path)), flatten(config))
            for file in self.path.glob("stages/*.json"):
                load_record(file, file.stem)
            self.ledger.read()
        else:
            self._claim(config)

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: str | Path, config: ConfigDict | FrozenConfigDict) -> Iterator[Self]:
        """A workdir that no other process may open; the kernel frees it when this one dies.

        Raises:
          UserError: another process holds the workdir, and whatever `Workdir` raises.
        """
        with _locked(_resolved(path)):
            yield cls(path, config)

    def _begun(self) -> bool:
        results, steps = self.path.glob("stages/*.json"), self.path.glob("checkpoints/*/*")
        return any(results) or any(step.name.isdigit() for step in steps)

    def _claim(self, config: ConfigDict | FrozenConfigDict) -> None:
        """Makes `config` the workdir's; an earlier start came to nothing."""
        stored = self.path / "config.json"
        try:
            same = flatten(load_json(stored)) == flatten(config)
        except (UserError, AttributeError):
            same = False
        if not same and jax.process_index() == 0:
            self.ledger.path.unlink(missing_ok=True)
        save_json(self.path / "layout.json", {"version": LAYOUT})
        save_json(stored, config.to_dict())

    def data(self, name: str) -> Path:
        """`data/<name>`, created."""
        return self._folder("data", name)

    def checkpoints(self, name: str) -> Path:
        """`checkpoints/<name>`, created."""
        return self._folder("checkpoints", name)

    def _folder(self, *parts: str) -> Path:
        folder = self.path.joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _stage_file(self, stage: str) -> Path:
        return self.path / "stages" / f"{stage}.json"

    def done(self, stage: str) -> bool:
        """Whether `stage` has finished here before."""
        return self._stage_file(stage).exists()

    def mark_done(self, stage: str, result: dict[str, Any], step: int | None = None) -> None:
        """Records the JSON `result` of a stage, its last act: whatever it wrote is complete.

        With several hosts this waits for all of them.

        Args:
          step: the checkpoint that the stage ended with, which later stages load (`final_step`).
        """
        ended = {} if step is None else {"step": step}
        save_record(self._stage_file(stage), {**result, **ended})
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"done {stage}")

    def forget(self, stage: str) -> None:
        """Makes `stage` one that has to end again; its checkpoints stay."""
        if jax.process_count() > 1:  # all hosts have seen that it had ended
            multihost_utils.sync_global_devices(f"forget {stage}")
        if jax.process_index() == 0:
            self._stage_file(stage).unlink(missing_ok=True)

    def result(self, stage: str, names: Collection[str] = ()) -> dict[str, Any]:
        """What `stage` recorded, with at least the fields `names`.

        Raises:
          UserError: it has not run, or its record is damaged, incomplete or not finite.
        """
        if not self.done(stage):
            raise UserError(f"Stage {stage} has not run in {self.path}: add it to --stages.")
        return load_record(self._stage_file(stage), stage, names)

    def final_step(self, stage: str) -> int:
        """The checkpoint that `stage` ended with; UserError while it is not done."""
        return self.result(stage, ("step",))["step"]


class Ledger:
    """ledger.jsonl: every real episode ever used, and by whom. One line per (stage, name)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """All entries, oldest first."""
        advice = "put an intact copy there or use another --workdir"
        return load_lines(self.path, ("stage", "name"), advice)

    def append(self, stage: str, name: str, **fields: Any) -> None:
        """Adds an entry such as `append("collect", "rollouts_0001", episodes=128)`.

        A stage that is repeated after an interruption replaces its own entry, so that nothing
        is counted twice.
        """
        kept = [e for e in self.read() if (e["stage"], e["name"]) != (stage, name)]
        entries = [*kept, {"stage": stage, "name": name, **fields}]
        atomic_write(self.path, "".join(json.dumps(e) + "\n" for e in entries).encode())


def read_config(path: Path) -> dict[str, Any]:
    """The config that the workdir at `path` was made with.

    Raises:
      UserError: no workdir, one of an older version, or config.json is missing or damaged.
    """
    advice = "use another --workdir, or put back the one that the run began with"
    layout = path / "layout.json"
    if not layout.exists() or load_json(layout) != {"version": LAYOUT}:
        raise UserError(
            f"{path} is no workdir of this version of wmpo_jax (no layout.json of version "
            f"{LAYOUT}): use another --workdir, or the version that made it."
        )
    try:
        config = json.loads((path / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}/config.json could not be read ({reason}): {advice}.") from error
    if not isinstance(config, dict) or not config:
        raise UserError(f"{path}/config.json holds no config: {advice}.")
    return config


def _resolved(path: str | Path) -> Path:
    return Path(path).expanduser().resolve()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keeps a second process out of `path`."""
    _check_writable(path)
    if jax.process_index() != 0:
        yield
        return
    with (path / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = f"process {pid}" if (pid := file.read().strip()) else "another process"
            raise UserError(
                f"{path} is in use by {holder}: wait for it, stop it, or use another --workdir."
            ) from error
        except OSError as error:
            raise UserError(
                f"The disk of {path} has no file locks ({error.strerror}): use another --workdir."
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _check_writable(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"The workdir {path} is not writable ({error.strerror}): use another --workdir."
        ) from error
    free = shutil.disk_usage(path).free
    if free < MIN_FREE_BYTES:
        raise UserError(
            f"Only {free / 2**20:.0f} MB are free on the disk of {path} and a run needs "
            f"{MIN_FREE_BYTES / 2**20:.0f} MB: make room or use another --workdir."
        )


def _check_same_config(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    absent = "absent"
    changes = [
        f"{name} was {old.get(name, absent)}, is {new.get(name, absent)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name, absent) != new.get(name, absent)
        and name.split(".")[0] not in MACHINE_FIELDS
    ]
    if changes:
        more = f" and {len(changes) - 8} more" if len(changes) > 8 else ""
        raise UserError(
            f"{path} was made with another config ({'; '.join(changes[:8])}{more}): "
            f"use another --workdir (--base={path} takes over what does not depend on that), or "
            "delete it."
        )
