"""The plan as Markdown."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from wmpo_jax.planning.estimate import Row, advice

_HEAD = (
    "| phase | arguments | resident | temporaries | peak | headroom | PFLOP | collectives, GB "
    "| seconds at peak | fits |"
)
_SHORT = {
    "all-gather": "gather",
    "all-reduce": "reduce",
    "reduce-scatter": "scatter",
    "all-to-all": "all-to-all",
    "collective-permute": "permute",
}


def table(rows: Sequence[Row], config: ConfigDict) -> str:
    """One line per phase; memory in GB per chip."""
    lines = [_HEAD, "|" + "---|" * (_HEAD.count("|") - 1)]
    return "\n".join([*lines, *(_line(row, config) for row in rows)])


def _line(row: Row, config: ConfigDict) -> str:
    memory = row.machine.chip.memory
    # A program that the compiler gave up on has one figure: what it would have used.
    given_up = row.sent is None
    cells = [
        row.phase,
        "-" if given_up else _gigabytes(row.arguments),
        _gigabytes(row.resident),
        "-" if given_up else _gigabytes(row.temporaries),
        _gigabytes(row.peak),
        _gigabytes(memory - row.peak),
        f"{row.flops / 1e15:.3g}",
        _collectives(row),
        f"{row.seconds:.3g}",
        "yes" if row.fits else f"NO: {advice(row, config)}",
    ]
    return "| " + " | ".join(cells) + " |"


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f}"


def _collectives(row: Row) -> str:
    if row.sent is None:
        return "-"
    parts = [f"{_SHORT[kind]} {count / 1e9:.3g}" for kind, count in sorted(row.sent.items())]
    return ", ".join(parts) or "none"
