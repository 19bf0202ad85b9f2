"""CRC-32 of every file of a checkpoint, written with it and compared when it is read.

Any flipped bit changes a CRC-32. `zlib.crc32` reads 1 to 3 GB/s per core: about half a minute for
the 30 GB of a 7-B policy in float32, beside a disk that is rarely faster. Hosts share the files.
"""

import errno
import json
import zlib
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from wmpo_jax.runtime.errors import UserError

NAME = "checksums.json"
_BLOCK = 2**22
_DAMAGED_LIST = -2  # beside the numbers of files, -1 for none


def write(folder: Path, items: Iterable[str]) -> None:
    """Makes checksums.json in `folder`: `{"params/_METADATA": <CRC-32>, ...}` for its `items`."""
    files = sorted(p for item in items for p in (folder / item).rglob("*") if p.is_file())
    found = {str(path.relative_to(folder)): _crc(path) for path in files}
    (folder / NAME).write_text(json.dumps(found, indent=0))


def damage(folder: Path, items: Iterable[str]) -> str:
    """What is wrong with the files of `items`, "" when they are as they were written.

    With several hosts all must call it, and each reads its share of the files.

    Raises:
      UserError: a file is there and cannot be read (permissions, too many open files).
    """
    try:
        content = json.loads((folder / NAME).read_bytes())
        listed = {name: crc for name, crc in content.items() if name.split("/")[0] in items}
        complete = all(any(name.startswith(f"{item}/") for name in listed) for item in items)
    except (OSError, ValueError, AttributeError):
        listed, complete = {}, False
    names = sorted(listed)
    bad = _DAMAGED_LIST if not complete else -1
    for number in range(jax.process_index(), len(names), jax.process_count()):
        if bad == -1 and not _intact(folder / names[number], listed[names[number]]):
            bad = number
    for found in _of_all_hosts(bad):
        if found == _DAMAGED_LIST:
            return f"{NAME} is missing or damaged"
        if found >= 0:
            path = folder / names[found]
            return f"{names[found]} {'has changed' if path.exists() else 'is missing'}"
    return ""


def _of_all_hosts(number: int) -> list[int]:
    if jax.process_count() == 1:
        return [number]
    return multihost_utils.process_allgather(np.int32(number)).tolist()


def _intact(path: Path, expected: int) -> bool:
    try:
        return _crc(path) == expected
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO):
            return False
        raise UserError(f"{path} could not be read: {error.strerror}.") from error


def _crc(path: Path) -> int:
    crc, block = 0, bytearray(_BLOCK)
    with path.open("rb") as file:
        while count := file.readinto(block):
            crc = zlib.crc32(memoryview(block)[:count], crc)
    return crc
