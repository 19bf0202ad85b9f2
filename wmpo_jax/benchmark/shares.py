"""Which parts of the code the time of a compiled program goes to, read from a profiler's trace.

XLA:CPU reports every instruction that it runs, and the program's text says which functions each
instruction was written in. A fused instruction belongs to the function of its last operation, so
that shares of a few per cent say little.
"""

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.profiler import ProfileData

# Part -> what its functions and their files are called, looked for from the innermost call out.
PARTS = (
    ("gelu", re.compile(r"gelu|MLP\.__call__", re.IGNORECASE)),
    ("moving average", re.compile(r"incremental_update|\bema\b")),
    ("optimizer", re.compile(r"optax|optimizers\.py")),
    ("norms", re.compile(r"norm(?!al\b)", re.IGNORECASE)),
    ("attention", re.compile(r"spatial_attention|temporal_attention|softmax|dot_product|rotate")),
    ("products", re.compile(r"Dense|dense\.py|flax/nnx/nn/linear\.py|precision\.py|products\.py")),
    ("windows", re.compile(r"_windows|_sample\b|_batch\b")),
    ("noise", re.compile(r"random|_uniform|_normal|fold_in")),
    ("network, rest", re.compile(r"models/")),
)
REST = "rest"
_TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
_NUMBER = re.compile(r"(\w+)=(\d+)")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = ")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(")
_CALLED = re.compile(r"calls=%?([\w.-]+)")
_OPERAND = re.compile(r"%([\w.-]+)")
_FRAME = re.compile(r"stack_frame_id=(\d+)")
_OPERATION = re.compile(r'op_name="([^"]*)"')
# Events that stand for a group of others, or for waiting.
_WAITING = re.compile(r"::|^while|^call|^conditional")


class Share(NamedTuple):
    """`seconds`: of all threads together, per run."""

    part: str
    seconds: float
    share: float


def shares(compiled: Any, run: Callable[[], Any], runs: int = 3) -> list[Share]:
    """Seconds of each part of a program, the largest first.

    Args:
      compiled: of `jax.stages`.
      run: runs it once; what it returns is waited for.
    """
    parts = instruction_parts(compiled.as_text())
    jax.block_until_ready(run())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(runs):
                jax.block_until_ready(run())
        trace = next(Path(folder).rglob("*.xplane.pb"))
        spent: dict[str, float] = {}
        for name, seconds in _own_seconds(ProfileData.from_file(str(trace))):
            if name in parts:
                spent[parts[name]] = spent.get(parts[name], 0.0) + seconds / runs
    total = sum(spent.values()) or 1.0
    largest = sorted(spent.items(), key=lambda item: -item[1])
    return [Share(part, seconds, seconds / total) for part, seconds in largest]


def instruction_parts(text: str) -> dict[str, str]:
    """Instruction -> its part, from `compiled.as_text()`."""
    lines = text.splitlines()
    chains = _call_chains(lines)
    parts: dict[str, str] = {}
    inside: dict[str, Counter[str]] = {}
    without_source: dict[str, str] = {}
    computation = ""
    for line in lines:
        start = _COMPUTATION.match(line)
        computation = start[1] if start and line.endswith("{") else computation
        found = _INSTRUCTION.match(line)
        if not found:
            continue
        part = _part_of(line, chains)
        if part is None:
            without_source[found[1]] = line
            continue
        parts[found[1]] = part
        inside.setdefault(computation, Counter())[part] += 1
    for name, line in without_source.items():
        parts[name] = _inherited(line, parts, inside)
    return parts


def _inherited(line: str, parts: dict[str, str], inside: dict[str, Counter[str]]) -> str:
    """The part of an instruction without a source: what it fuses, or where its operands are of."""
    called = _CALLED.search(line)
    most = inside.get(called[1], Counter()).most_common(1) if called else []
    if most:
        return most[0][0]
    of_operands = (parts.get(name, REST) for name in _OPERAND.findall(line.partition("(")[2]))
    return next((part for part in of_operands if part != REST), REST)


def _part_of(line: str, chains: dict[int, list[str]]) -> str | None:
    """None where the line names no source."""
    operation, frame = _OPERATION.search(line), _FRAME.search(line)
    if operation is None:
        return None
    chain = chains.get(int(frame[1]), []) if frame else []
    if "gelu" in operation[1]:
        return "gelu"
    for place in [*chain, operation[1]]:
        for part, pattern in PARTS:
            if pattern.search(place):
                return part
    return REST


def _call_chains(lines: list[str]) -> dict[int, list[str]]:
    """Frame -> "file:function" from the innermost call out."""
    tables = {name: _table(lines, name) for name in _TABLES}
    chains: dict[int, list[str]] = {}
    for number, row in tables["StackFrames"].items():
        frame = dict(_NUMBER.findall(row))
        location = tables["FileLocations"][int(frame["file_location_id"])]
        place = {name: int(value) for name, value in _NUMBER.findall(location)}
        file = tables["FileNames"][place["file_name_id"]].strip('"')
        function = tables["FunctionNames"][place["function_name_id"]].strip('"')
        # Frames are listed after those that called them; the text counts parents from 1 for none.
        outer = chains.get(int(frame.get("parent_frame_id", 1)) - 1, [])
        chains[number] = [f"{_short(file)}:{function}", *outer]
    return chains


def _short(file: str) -> str:
    return file.partition("site-packages/")[2] or file.rpartition("wmpo_jax/")[2] or file


def _table(lines: list[str], name: str) -> dict[int, str]:
    """The numbered lines below a heading."""
    if name not in lines:
        return {}
    rows: dict[int, str] = {}
    for line in lines[lines.index(name) + 1 :]:
        number, _, rest = line.partition(" ")
        if not number.isdecimal():
            break
        rows[int(number)] = rest
    return rows


def _own_seconds(data: Any) -> Iterator[tuple[str, float]]:
    """Name and seconds of each event, without the seconds of events inside it."""
    for plane in data.planes:
        for line in plane.lines:
            if line.name != "python":
                yield from _without_inner(line.events)


def _without_inner(events: Iterable[Any]) -> Iterator[tuple[str, float]]:
    open_events: list[list[Any]] = []  # [name, end, own nanoseconds]
    for event in sorted(events, key=lambda event: (event.start_ns, -event.duration_ns)):
        while open_events and open_events[-1][1] <= event.start_ns:
            name, _, own = open_events.pop()
            yield name, own / 1e9
        if _WAITING.search(event.name):
            continue
        if open_events:
            open_events[-1][2] -= event.duration_ns
        end = event.start_ns + event.duration_ns
        open_events.append([event.name, end, event.duration_ns])
    yield from ((name, own / 1e9) for name, _, own in open_events)
