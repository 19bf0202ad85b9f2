"""Metrics of one stage: JSON lines always, TensorBoard and others when asked for."""

import contextlib
import importlib.util
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import jax

from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import atomic_write, load_lines
from wmpo_jax.runtime.metric_sinks import open_sinks


class MetricWriter:
    """Appends `{"step": 10, "time": <unix seconds>, "sft/loss": 0.3}` to `<stage>.jsonl`.

    Args:
      directory: the workdir's `metrics`.
      stage: names the file and prefixes every metric.
      resume_step: the step that was restored; later records of an interrupted run are dropped,
        because they are about to be made again.
      tensorboard: also write event files under `<directory>/<stage>/`.
      writers: further sinks, as `metric_sinks.open_sinks` reads them. All show the same names.

    Raises:
      UserError: TensorBoard is asked for and not installed, a writer cannot be loaded, or the disk
        is full.
    """

    def __init__(
        self,
        directory: Path,
        stage: str,
        resume_step: int = 0,
        tensorboard: bool = False,
        writers: str = "",
    ) -> None:
        self._stage = stage
        self._path = path = directory / f"{stage}.jsonl"
        records = [r for r in read_metrics(path) if r["step"] <= resume_step] if resume_step else []
        # First of all, as this says plainly when the disk is full.
        atomic_write(path, "".join(json.dumps(r) + "\n" for r in records).encode())
        with _writing(directory):
            self._file = path.open("a") if _is_main() else None
            self._board = _open_board(directory / stage) if tensorboard and _is_main() else None
            self._sinks = open_sinks(writers, directory, stage, resume_step) if _is_main() else []

    def write(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Records scalars (Python numbers or 0-d arrays) of a step."""
        values = {f"{self._stage}/{k}": float(v) for k, v in jax.device_get(dict(scalars)).items()}
        if self._file is not None:
            record = {"step": step, "time": round(time.time(), 2), **values}
            with _writing(self._path):
                self._file.write(json.dumps(record) + "\n")
                self._file.flush()
        with _writing(self._path.parent):
            if self._board is not None:
                self._board.write_scalars(step, values)
            for sink in self._sinks:
                sink.write(step, values)

    def close(self) -> None:
        """Closes the files."""
        with _writing(self._path.parent):
            if self._file is not None:
                self._file.close()
            if self._board is not None:
                self._board.close()
            for sink in self._sinks:
                sink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """All complete records of a metrics file, [] when there is none.

    A torn last line (the process was killed in it) is left out.

    Raises:
      UserError: another line is damaged.
    """
    advice = "delete this file, its curves are lost and the run is not"
    records = load_lines(path, ("step",), advice)
    for number, record in enumerate(records, 1):
        if not all(isinstance(value, int | float) for value in record.values()):
            raise UserError(f"{path} is damaged at line {number}: {advice}.")
    return records


@contextlib.contextmanager
def _writing(place: Path) -> Iterator[None]:
    """Turns errors of the disk, also TensorFlow's about its event files, into a UserError."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and not type(error).__module__.startswith("tensorflow."):
            raise
        reason = (
            getattr(error, "strerror", None) or str(error).partition("\n")[0].rpartition("; ")[2]
        )
        raise UserError(
            f"Metrics could not be written to {place} ({reason}): make room or lift the limit on "
            "file sizes, then the same command continues."
        ) from error


def _is_main() -> bool:
    return jax.process_index() == 0


def _open_board(directory: Path) -> Any:
    missing = [n for n in ("clu", "tensorflow", "tensorboard") if not importlib.util.find_spec(n)]
    if missing:
        raise UserError(
            f"TensorBoard logging needs {', '.join(missing)}: pip install 'wmpo_jax[tensorboard]' "
            "or set tensorboard to False in the config."
        )
    from clu import metric_writers  # imports tensorflow: seconds, and only for those who ask

    return metric_writers.SummaryWriter(str(directory))
