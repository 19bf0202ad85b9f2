"""What a compiled program sends between chips, read off its text."""

import math
import re
from collections.abc import Iterable, Mapping, Set
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.-]+ = (.*?) ([a-z][\w-]*)\(")
_ARRAY = re.compile(r"\b(?:[a-z]+)(\d+)\w*\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|async_wrapped)=%?([\w.-]+)")
_BODY = re.compile(r"body=%?([\w.-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONDITION = re.compile(r"condition=%?([\w.-]+)")
_BOUND = re.compile(r" s32\[\]\S* constant\((\d+)\)")


class Collective(NamedTuple):
    """One instruction.

    Attributes:
      kind: of KINDS.
      bytes: of its results, on one chip; one that is merely started holds its operands too, and
        counts as its largest array.
      arrays: shapes of those arrays, without sides of one.
      times: how often a run of the program executes it.
      loops: trip counts of the loops it is in, outermost first.
    """

    kind: str
    bytes: int
    arrays: tuple[tuple[int, ...], ...]
    times: int
    loops: tuple[int, ...]


def collectives(text: str) -> list[Collective]:
    """Of `compiled.as_text()`."""
    bodies, entry = _computations(text)
    found: list[Collective] = []
    _walk(entry, (), bodies, found, set())
    return found


def trips(text: str) -> set[int]:
    """How often each of its loops runs."""
    bodies, _ = _computations(text)
    lines = [line for body in bodies.values() for line in body if " while(" in line]
    return {_trips(line, bodies) for line in lines}


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
            arrays = [(int(bits), _sides(shape)) for bits, shape in _ARRAY.findall(match[1])]
            sizes = [bits * math.prod(sides) // 8 for bits, sides in arrays] or [0]
            total = max(sizes) if match[2].endswith("-start") else sum(sizes)
            shapes = tuple(sides for _, sides in arrays)
            found.append(Collective(kind, total, shapes, math.prod(loops), loops))
        body = _BODY.search(line) if match[2] == "while" else None
        for called in _CALLED.findall(line):
            inside = body is not None and called == body[1]
            inner = (*loops, _trips(line, bodies)) if inside else loops
            _walk(called, inner, bodies, found, seen)


def _trips(line: str, bodies: dict[str, list[str]]) -> int:
    """How often a `while` runs: as CPU's compiler says, or the bound that TPU's compares with."""
    known = _TRIPS.search(line)
    if known:
        return int(known[1])
    condition = _CONDITION.search(line)
    lines = bodies.get(condition[1], []) if condition else []
    bounds = [int(bound[1]) for bound in map(_BOUND.search, lines) if bound]
    return bounds[0] if len(bounds) == 1 else 1


def _sides(shape: str) -> tuple[int, ...]:
    return tuple(int(side) for side in shape.split(",") if side and side != "1")


def within(found: Iterable[Collective], trips: int) -> list[Collective]:
    """Those inside a loop that runs so often, such as the sampler's."""
    return [collective for collective in found if trips in collective.loops]


class Matrices(NamedTuple):
    """Shapes of a network's matrices, smaller side first.

    Attributes:
      layers: depth of a stack of scanned layers -> those of one of its layers.
      loose: those that are in no stack.
    """

    layers: Mapping[int, Set[tuple[int, int]]]
    loose: Set[tuple[int, int]]
