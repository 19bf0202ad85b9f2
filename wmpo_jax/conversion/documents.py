"""The JSON files beside weights, read with advice that is true for files of others."""

import json
from pathlib import Path
from typing import Any

from wmpo_jax.runtime.errors import UserError

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
LFS_POINTER = b"version https://git-lfs"
MOST = 2**63  # of whole numbers


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
      UserError: the file is damaged, a pointer of Git LFS, or holds something else.
    """
    check_pointer(path)
    try:
        value = json.loads(path.read_bytes(), parse_int=_whole)
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): copy or download it again.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is no JSON object: take the one that belongs to the weights.")
    return value


def _whole(digits: str) -> int:
    """What no float holds would otherwise fail wherever it is used."""
    number = int(digits)
    if abs(number) > MOST:
        raise ValueError(f"the number {digits[:20]} is out of range")
    return number


def check_pointer(path: Path) -> None:
    """UserError when a clone without Git LFS left a pointer instead of the file."""
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise UserError(
                f"{path} is only a pointer of Git LFS, not the file itself: "
                "fetch it with git lfs pull."
            )


def read_config(folder: Path | None) -> dict[str, Any]:
    """The folder's config.json, {} without one."""
    return _optional(folder, CONFIG)


def read_settings(folder: Path | None) -> dict[str, Any]:
    """config.json, and under "preprocessor" what preprocessor_config.json holds, where it is."""
    preprocessor = _optional(folder, PREPROCESSOR)
    return read_config(folder) | ({"preprocessor": preprocessor} if preprocessor else {})


def _optional(folder: Path | None, name: str) -> dict[str, Any]:
    if folder is None or not (folder / name).is_file():
        return {}
    return read_object(folder / name)
