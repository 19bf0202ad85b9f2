"""What a conversion says when it is done."""

import dataclasses
import resource
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Summary:
    """Counts of one conversion.

    Attributes:
      tensors, parameters: those the network reads.
      unused, unused_parameters: those it never reads, which are kept for the way back.
      missing: names that the released checkpoints also have and nothing reads.
      bytes: of all tensors together.
      peak_bytes: the most memory this process has held so far, mapped file pages included.
      read: the files that an import took, the weights first.
      notes: what was decided on the way and what is missing beside the weights, one sentence each.
    """

    tensors: int
    parameters: int
    unused: int
    unused_parameters: int
    missing: tuple[str, ...]
    bytes: int
    peak_bytes: int
    read: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        gigabytes = self.bytes / 1e9
        return (
            f"{self.tensors} tensors, {self.parameters:,} parameters; "
            f"unused but kept: {self.unused} tensors, {self.unused_parameters:,} parameters; "
            f"missing: {len(self.missing)}{_first(self.missing)}\n"
            f"{gigabytes:.3f} GB of weights; peak memory {self.peak_bytes / 1e9:.3f} GB"
            + (f"\nread: {', '.join(self.read)}" if self.read else "")
            + "".join(f"\n{note}" for note in self.notes)
        )


def summarize(infos: Mapping[str, Any], live: Iterable[str], missing: Iterable[str]) -> Summary:
    """`infos`: anything with `shape` and `dtype`, of every tensor; `live`: names that are read."""
    live = set(live)
    sizes = {name: int(np.prod(info.shape)) for name, info in infos.items()}
    used = [size for name, size in sizes.items() if name in live]
    return Summary(
        tensors=len(used),
        parameters=sum(used),
        unused=len(sizes) - len(used),
        unused_parameters=sum(sizes.values()) - sum(used),
        missing=tuple(missing),
        bytes=sum(size * infos[name].dtype.itemsize for name, size in sizes.items()),
        peak_bytes=peak_memory(),
    )


def peak_memory() -> int:
    """Peak resident bytes of this process; Linux counts in kilobytes, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _first(names: tuple[str, ...]) -> str:
    return f" ({names[0]}{', ...' if len(names) > 1 else ''})" if names else ""
