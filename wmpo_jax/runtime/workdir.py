"""The folder of one run, and who has finished what in it.

workdir/
  config.json  ledger.jsonl  stages/<stage>.json  data/<name>/  checkpoints/<name>/
  metrics/*.jsonl  report/index.html
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict, FrozenConfigDict

from wmpo_jax.runtime.config import flatten
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import atomic_write, load_json, save_json

MIN_FREE_BYTES = 200 * 2**20  # a tiny run leaves about 100 MB
# Where a run computes and who is told may change between two starts; what it computes may not.
MACHINE_FIELDS = ("mesh", "cpu_devices", "writers")


class Workdir:
    """One run's folder; made on first use, refused when another config made it.

    Args:
      path: the folder.
      config: the run's config, written to config.json and compared with what is there.

    Raises:
      UserError: not writable, less than 200 MB free, or made with another config.
    """

    def __init__(self, path: str | Path, config: ConfigDict | FrozenConfigDict) -> None:
        self.path = Path(path).expanduser().resolve()
        self.metrics = self.path / "metrics"
        self.report = self.path / "report"
        self.ledger = Ledger(self.path / "ledger.jsonl")
        _check_writable(self.path)
        stored = self.path / "config.json"
        if stored.exists():
            _check_same_config(self.path, flatten(load_json(stored)), flatten(config))
        else:
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

    def mark_done(self, stage: str, result: dict[str, Any]) -> None:
        """Records the JSON `result` of a stage, its last act: whatever it wrote is complete.

        With several hosts this waits for all of them.
        """
        save_json(self._stage_file(stage), result)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"done {stage}")

    def result(self, stage: str) -> dict[str, Any]:
        """What `stage` recorded; UserError when it has not run."""
        if not self.done(stage):
            raise UserError(f"Stage {stage} has not run in {self.path}: add it to --stages.")
        return load_json(self._stage_file(stage))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps a second process out; the kernel lets go of it when this process dies.

        Raises:
          UserError: another process holds the workdir.
        """
        if jax.process_index() != 0:
            yield
            return
        with (self.path / "lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise UserError(
                    f"{self.path} is in use by process {file.read().strip()}: "
                    "wait for it, stop it, or use another --workdir."
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield


class Ledger:
    """ledger.jsonl: every real episode ever used, and by whom. One line per (stage, name)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """All entries, oldest first."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def append(self, stage: str, name: str, **fields: Any) -> None:
        """Adds an entry such as `append("collect", "rollouts_0001", episodes=128)`.

        A stage that is repeated after an interruption replaces its own entry, so that nothing
        is counted twice.
        """
        kept = [e for e in self.read() if (e["stage"], e["name"]) != (stage, name)]
        entries = [*kept, {"stage": stage, "name": name, **fields}]
        atomic_write(self.path, "".join(json.dumps(e) + "\n" for e in entries).encode())


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
            "use another --workdir or delete it."
        )
