"""Other places for metrics than JSON lines and TensorBoard: CSV here, anything else plugged in."""

import csv
import importlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import atomic_write


class Sink(Protocol):
    """Takes the metrics of one stage; made as `Sink(directory, stage, resume_step)`.

    Args:
      directory: the workdir's `metrics`.
      stage: whose metrics these are; their names begin with it (`sft/loss`).
      resume_step: the step that was restored. Later ones are about to be made again, 0 begins anew.
    """

    def __init__(self, directory: Path, stage: str, resume_step: int) -> None: ...

    def write(self, step: int, scalars: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def open_sinks(names: str, directory: Path, stage: str, resume_step: int) -> list[Sink]:
    """The sinks of a config's `writers`: "csv", "module:Class", or several with commas between.

    Raises:
      UserError: a name that is neither, or a module that cannot be imported.
    """
    return [_sink_class(name.strip())(directory, stage, resume_step) for name in _split(names)]


def check(names: str) -> None:
    """Before a run begins: UserError for a writer that cannot be loaded."""
    for name in _split(names):
        _sink_class(name.strip())


def _split(names: str) -> list[str]:
    return [name for name in names.split(",") if name.strip()]


def _sink_class(name: str) -> type[Sink]:
    if name == "csv":
        return CsvSink
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # it is the user's own program
        raise UserError(
            f"The metric writer {name!r} of config.writers cannot be loaded ({error}): write csv "
            "or module:Class of a module that can be imported here."
        ) from error
    if not isinstance(found, type) or not (hasattr(found, "write") and hasattr(found, "close")):
        raise UserError(
            f"The metric writer {name!r} of config.writers is no class with the methods write and "
            "close: see docs/extending.md."
        )
    return found


class CsvSink:
    """`<stage>.csv`: a row (step, name, value) per metric, for spreadsheets and data frames."""

    def __init__(self, directory: Path, stage: str, resume_step: int) -> None:
        path = directory / f"{stage}.csv"
        kept = _rows_until(path, resume_step) if resume_step and path.exists() else []
        buffer = io.StringIO()
        csv.writer(buffer).writerows([("step", "name", "value"), *kept])
        atomic_write(path, buffer.getvalue().encode())
        self._file = path.open("a", newline="")
        self._writer = csv.writer(self._file)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        self._writer.writerows((step, name, repr(value)) for name, value in scalars.items())
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _rows_until(path: Path, step: int) -> list[list[str]]:
    """Whole rows of steps up to `step`; a row that a kill has cut is dropped."""
    try:
        complete, _, _ = path.read_text().rpartition("\n")
        rows = list(csv.reader(complete.splitlines()))[1:]
        return [row for row in rows if int(row[0]) <= step]
    except (ValueError, IndexError, csv.Error) as error:
        raise UserError(
            f"{path} is damaged ({error}): delete this file, its curves are lost and the run is "
            "not."
        ) from error
