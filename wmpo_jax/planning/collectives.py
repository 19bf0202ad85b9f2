"""What a compiled program sends between chips, read off its text."""

import re
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.-]+ = (.*?) ([a-z][\w-]*)\(")
_ARRAY = re.compile(r"\b(?:[a-z]+)(\d+)\w*\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|async_wrapped)=%?([\w.-]+)")
_BODY = re.compile(r"body=%?([\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class Collective(NamedTuple):
    """One instruction.

    Attributes:
      kind: of KINDS.
      bytes: of its largest array, on one chip.
      elements: of that array.
      times: how often a run of the program executes it.
      loops: trip counts of the loops it is in, outermost first.
    """

    kind: str
    bytes: int
    elements: int
    times: int
    loops: tuple[int, ...]


def collectives(text: str) -> list[Collective]:
    """Of `compiled.as_text()`."""
    bodies, entry = _computations(text)
    found: list[Collective] = []
    _walk(entry, (), bodies, found, set())
    return found


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Lines of each computation, and the name of the entry."""
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        start = _COMPUTATION.match(line)
        if start:
            name = start[1]
            bodies[name] = []
            entry = name if line.startswith("ENTRY") else entry
        elif name:
            bodies[name].append(line)
    return bodies, entry


def _walk(
    name: str,
    loops: tuple[int, ...],
    bodies: dict[str, list[str]],
    found: list[Collective],
    seen: set[tuple[str, tuple[int, ...]]],
) -> None:
    """Collects from a computation and those it calls; one that several call counts once."""
    if (name, loops) in seen:
        return
    seen.add((name, loops))
    for line in bodies.get(name, []):
        match = _INSTRUCTION.match(line)
        if not match:
            continue
        kind = match[2].removesuffix("-start")
        if kind in KINDS:
            bits, elements = max(
                (
                    (int(b) * _product(shape), _product(shape))
                    for b, shape in _ARRAY.findall(match[1])
                ),
                default=(0, 0),
            )
            times = _product(",".join(map(str, loops)))
            found.append(Collective(kind, bits // 8, elements, times, loops))
        body = _BODY.search(line) if match[2] == "while" else None
        for called in _CALLED.findall(line):
            inside = body is not None and called == body[1]
            trips = _TRIPS.search(line)
            inner = (*loops, int(trips[1]) if trips else 1) if inside else loops
            _walk(called, inner, bodies, found, seen)


def _product(shape: str) -> int:
    total = 1
    for side in filter(None, shape.split(",")):
        total *= int(side)
    return total
