"""The steps of a LeRobot dataset, data/chunk-*/file-*.parquet: one row per step.

A file holds many episodes, 100 MB of them by LeRobot's default, and pictures if the dataset has no
videos. Of it only the columns in use are read, and the row groups that hold the episode.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from wmpo_jax.data.byte_cache import ByteCache
from wmpo_jax.data.causes import unreadable
from wmpo_jax.data.episodes import BadEpisode
from wmpo_jax.data.extras import require

CACHE_BYTES = 1 << 30  # columns that a process keeps, of all its datasets
CACHE = ByteCache(CACHE_BYTES)


@dataclass(frozen=True, eq=False)
class Rows:
    """Where rows are: row groups of a file, and positions in these."""

    file: Path
    groups_N: np.ndarray
    rows_N: np.ndarray

    def __len__(self) -> int:
        return len(self.rows_N)

    def take(self, order_N: np.ndarray) -> "Rows":
        return Rows(self.file, self.groups_N[order_N], self.rows_N[order_N])


@dataclass(frozen=True, eq=False)
class _Footer:
    """Of a file, and which file it was: another one of the same name is read anew."""

    metadata: Any
    names: Sequence[str]
    identity: tuple[int, int]


class StepTables:
    """All files of a dataset's `root`. Safe to share by threads; everything raises BadEpisode."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._footer = lru_cache(maxsize=1024)(self._read_footer)

    def columns(self, file: Path) -> Sequence[str]:
        return self._footer(file).names

    def episode(self, file: Path, number: int, columns: Sequence[str]) -> tuple[Rows, Any]:
        """The rows with `number` in episode_index, as they lie, and a pyarrow Table of columns."""
        wanted = ("episode_index", *columns)
        groups, rows, parts = [], [], []
        for group in self._groups(file, number):
            table = self._read(file, group, wanted)
            found = np.flatnonzero(row_numbers(table, "episode_index") == number)
            groups.append(np.full(len(found), group))
            rows.append(found)
            parts.append(table.take(found))
        place = Rows(file, np.concatenate(groups), np.concatenate(rows))
        return place, require("pyarrow").concat_tables(parts)

    def cell(self, rows: Rows, step: int, column: str) -> Any:
        """One cell; the column of its row group is kept for the next."""
        table = self._read(rows.file, int(rows.groups_N[step]), (column,))
        return table[column][int(rows.rows_N[step])].as_py()

    def _groups(self, file: Path, number: int) -> list[int]:
        """The row groups that may hold an episode, by the footer's statistics; at least one."""
        metadata = self._footer(file).metadata
        found = []
        for group in range(metadata.num_row_groups):
            known = _statistics(metadata.row_group(group), "episode_index")
            if known is None or not known.has_min_max or known.min <= number <= known.max:
                found.append(group)
        return found or [0]

    def _read(self, file: Path, group: int, columns: tuple[str, ...]) -> Any:
        footer = self._footer(file)

        def load() -> Any:
            # One thread: the loader has several, and pyarrow's pool is slower at one column.
            with opened(file, self._name(file), footer.metadata) as table:
                return table.read_row_group(group, columns=list(columns), use_threads=False)

        return CACHE.get((file, footer.identity, group, columns), load)

    def _read_footer(self, file: Path) -> _Footer:
        with opened(file, self._name(file)) as table:
            state = file.stat()
            names = table.schema_arrow.names
            if "episode_index" not in names or not table.num_row_groups:
                raise BadEpisode(
                    f"{self._name(file)} has no rows by episode_index (it has: {', '.join(names)})"
                )
            return _Footer(table.metadata, names, (state.st_mtime_ns, state.st_size))

    def _name(self, file: Path) -> str:
        return f"its table {file.relative_to(self._root)}"


def _statistics(group: Any, name: str) -> Any:
    columns = (group.column(number) for number in range(group.num_columns))
    return next((c.statistics for c in columns if c.path_in_schema == name), None)


@contextlib.contextmanager
def opened(file: Path, name: str, metadata: Any = None) -> Iterator[Any]:
    """A pyarrow ParquetFile; what opening or reading it raises is a BadEpisode about `name`."""
    arrow, parquet = require("pyarrow"), require("pyarrow.parquet")
    try:
        with parquet.ParquetFile(file, metadata=metadata) as table:
            yield table
    except (OSError, arrow.ArrowException) as error:
        raise BadEpisode(f"{name} {unreadable(file, error)}") from error


def numbers(table: Any, column: str) -> np.ndarray:
    """float64 [N] or [N, ...] of a column of numbers or of lists of them. Raises BadEpisode."""
    try:
        return np.asarray(table[column].to_pylist(), np.float64)
    except (ValueError, TypeError) as error:
        raise BadEpisode(f"its column {column} does not hold numbers alone ({error})") from error


def row_numbers(table: Any, column: str) -> np.ndarray:
    """float64 [N] of a column that has one finite number in a row. Raises BadEpisode."""
    kind, arrow = table[column].type, require("pyarrow")
    if arrow.types.is_integer(kind) and not table[column].null_count:
        return table[column].to_numpy().astype(np.float64)
    values = numbers(table, column).reshape(len(table), -1)
    if values.shape[1] != 1:
        raise BadEpisode(f"its column {column} has {values.shape[1]} numbers in a row")
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values[:, 0]))[0])
        raise BadEpisode(f"its column {column} has no number in row {row}")
    return values[:, 0]
