"""What a LeRobot dataset says of itself: meta/info.json, meta/tasks.parquet, meta/episodes.

Tables are read cell by cell, so that a damaged cell spoils one episode and not the dataset.
"""

import json
import math
import string
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wmpo_jax.data.causes import is_pointer
from wmpo_jax.data.episodes import BadEpisode
from wmpo_jax.data.extras import require
from wmpo_jax.data.lerobot_tables import opened
from wmpo_jax.runtime.errors import UserError

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
FILE_FIELDS = ("chunk_index", "file_index")
# Without these no episode can be found.
COLUMNS = ("episode_index", "length", *(f"data/{field}" for field in FILE_FIELDS))


class Facts:
    """meta/info.json.

    Attributes:
      fps: frames per second, above 0.
      features: what each column or camera is, by name.
      data_path, video_path: templates of file names.

    Raises:
      UserError: it cannot be read, is of another version, or does not say these.
    """

    def __init__(self, root: Path) -> None:
        self._file = root / "meta" / "info.json"
        facts = self._load()
        _check_version(root, str(facts.get("codebase_version")))
        for key in ("fps", "features"):
            if key not in facts:
                raise UserError(f"{self._file} lacks {key}: write it there.")
        self.fps = self._frame_rate(facts["fps"])
        self.features: dict[str, dict[str, Any]] = facts["features"]
        if not isinstance(self.features, dict) or not all(
            isinstance(feature, dict) for feature in self.features.values()
        ):
            raise UserError(f"{self._file} has features that are not objects: copy it again.")
        self.data_path = self._template(facts.get("data_path") or DATA_PATH, FILE_FIELDS)
        fields = ("video_key", *FILE_FIELDS)
        self.video_path = self._template(facts.get("video_path") or VIDEO_PATH, fields)

    def _load(self) -> dict[str, Any]:
        if is_pointer(self._file):
            raise UserError(f"{self._file} is a Git LFS pointer, not the file: run git lfs pull.")
        try:
            facts = json.loads(self._file.read_bytes())
        except OSError as error:
            raise UserError(f"{self._file} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise UserError(f"{self._file} is not JSON ({error}): copy it again.") from error
        if not isinstance(facts, dict):
            raise UserError(f"{self._file} is not a JSON object: copy it again.")
        return facts

    def _frame_rate(self, value: Any) -> float:
        try:
            rate = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            rate = math.nan
        if not 0 < rate < math.inf:
            raise UserError(f"{self._file} has the fps {value!r}: write frames per second.")
        return rate

    def _template(self, value: Any, fields: Sequence[str]) -> str:
        """A file name with the `fields` in braces and no others."""
        try:
            found = {name for _, name, _, _ in string.Formatter().parse(value) if name is not None}
            str(value).format(**{field: 0 for field in found})
        except (TypeError, ValueError):
            found = None
        if found is None or not found <= set(fields):
            raise UserError(
                f"{self._file} has the file name {value!r}: its fields should be "
                f"{', '.join(fields)}."
            )
        return str(value)


def _check_version(root: Path, version: str) -> None:
    if version.removeprefix("v").startswith("3"):
        return
    where = f"{root} is a LeRobot dataset of version {version} and v3.0 is read"
    if version.removeprefix("v").startswith("2.1"):
        raise UserError(
            f"{where}: convert it with python -m lerobot.scripts.convert_dataset_v21_to_v30 "
            f"--repo-id={root.name} --root=FOLDER --push-to-hub=false."
        )
    raise UserError(f"{where}: convert it step by step with the LeRobot releases in between.")


class Tasks:
    """meta/tasks.parquet: instructions by task_index; `found` tells whether the file is there."""

    def __init__(self, root: Path) -> None:
        file = root / "meta" / "tasks.parquet"
        self.found = file.exists()
        self._rows: dict[int, int] = {}
        if self.found:
            table = _read_all(file)
            self._texts = table[_text_column(table, file)]
            numbers = [int(n) for n in table["task_index"].to_pylist()]
            self._rows = {number: row for row, number in enumerate(numbers)}
            twice = next((n for n in self._rows if numbers.count(n) > 1), None)
            if twice is not None:
                raise UserError(f"{file} lists the task_index {twice} twice: number tasks apart.")

    def text(self, task_index: int) -> str | None:
        """None when it is not listed. Raises BadEpisode."""
        if task_index not in self._rows:
            return None
        return _text(self._texts, self._rows[task_index], "task of meta/tasks.parquet")


def _text_column(table: Any, file: Path) -> str:
    """pandas keeps the instructions in the index, whose column has no fixed name."""
    others = [name for name in table.column_names if name != "task_index"]
    known = [name for name in ("task", "__index_level_0__") if name in others]
    if len(others) == len(table.column_names) or not (known or len(others) == 1):
        raise UserError(
            f"{file} has the columns {', '.join(table.column_names)}: name them task_index and "
            "task."
        )
    if table["task_index"].null_count:
        raise UserError(f"{file} has a task without a task_index: number it.")
    return [*known, *others][0]


class EpisodeTable:
    """meta/episodes, one row per episode."""

    def __init__(self, root: Path) -> None:
        arrow = require("pyarrow")
        files = sorted((root / "meta" / "episodes").rglob("*.parquet"))
        parts = [_read_all(file) for file in files]
        for file, part in zip(files, parts, strict=True):
            lacking = [name for name in COLUMNS if name not in part.column_names]
            if lacking:
                raise UserError(f"{file} lacks {', '.join(lacking)}: copy the dataset again.")
        if not sum(map(len, parts)):
            raise UserError(f"{root} lists no episodes in meta/episodes: copy the dataset again.")
        try:
            self._table = arrow.concat_tables(parts, promote_options="permissive")
        except arrow.ArrowException as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"The tables in {root}/meta/episodes have columns of different types ({reason}): "
                "copy the dataset again."
            ) from error

        numbers = Counter(self._table["episode_index"].drop_null().to_pylist())
        twice = [number for number, count in numbers.items() if count > 1]
        if twice:
            raise UserError(f"{root}/meta/episodes lists episode {twice[0]} twice: delete one row.")

    def __len__(self) -> int:
        return len(self._table)

    def value(self, index: int, key: str) -> Any:
        """None when there is no such column. Raises BadEpisode."""
        return self._table[key][index].as_py() if key in self._table.column_names else None

    def number(self, index: int, key: str) -> float:
        """A finite number. Raises BadEpisode."""
        if key not in self._table.column_names:
            raise BadEpisode(f"meta/episodes lacks {key}")
        value = self.value(index, key)
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise BadEpisode(f"meta/episodes has {value} for its {key}, not a number")
        return value

    def whole(self, index: int, key: str) -> int:
        """A whole number, at least 0; pandas may have made it a float. Raises BadEpisode."""
        value = self.number(index, key)
        if value < 0 or value != int(value):
            raise BadEpisode(f"meta/episodes has {value} for its {key}, not a whole number")
        return int(value)

    def place(self, index: int, what: str) -> dict[str, int]:
        """The file of `what`, "data" or a video. Raises BadEpisode."""
        return {field: self.whole(index, f"{what}/{field}") for field in FILE_FIELDS}

    def tasks(self, index: int) -> list[str]:
        """The instructions that occur in an episode, in no order. Raises BadEpisode."""
        if "tasks" not in self._table.column_names:
            return []
        cell = self._table["tasks"][index]
        if not cell.is_valid:
            return []
        texts = getattr(cell, "values", None)
        if texts is None:
            return [_text([cell], 0, "tasks of meta/episodes")]
        return [_text(texts, row, "tasks of meta/episodes") for row in range(len(texts))]


def _text(column: Any, row: int, what: str) -> str:
    try:
        value = column[row].as_py()
        value = value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        raise BadEpisode(f"the {what} is not UTF-8 text ({error.reason})") from error
    if value is not None and not isinstance(value, str):
        raise BadEpisode(f"the {what} is {value!r}, not text")
    return (value or "").strip()


def _read_all(file: Path) -> Any:
    """A table but for LeRobot's statistics, which are most of it. UserError names the file."""
    try:
        with opened(file, str(file)) as table:
            names = table.schema_arrow.names
            return table.read([name for name in names if not name.startswith("stats/")])
    except BadEpisode as error:
        raise UserError(f"{error}.") from error
