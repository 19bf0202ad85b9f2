"""Rows as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Of the rows of one section; "" of none."""
    if not rows:
        return ""
    lines = [_cells(row) for row in rows]
    head = list(lines[0])
    body = [_line(cells.values()) for cells in lines]
    return "\n".join([_line(head), _line("---" for _ in head), *body])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    """Heading -> cell."""
    if "part" in row:
        return _part(row)
    if "axis" in row:
        return _axis(row)
    if "program" in row:
        return _versus(row)
    found = {
        "program": row["name"],
        "size": row["detail"],
        "seconds": seconds(row["seconds"]),
        "per second": f"{row['rate']:.4g} {row['unit']}",
    }
    if "flop_share" in row:
        found |= {
            "of products": f"{row['flop_share']:.0%}",
            "of copying": f"{row['byte_share']:.0%}",
            "temporaries, MB": f"{row['temporaries'] / 1e6:.0f}",
            "compiled in": f"{row['compile_seconds']:.0f} s",
        }
    return found


def _part(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "part": row["part"],
        "share": f"{row['share']:.1%}",
        "ms of a step": f"{1e3 * row['seconds']:.1f}",
    }


def _axis(row: Mapping[str, Any]) -> dict[str, str]:
    points = ", ".join(f"{p['size']}: {p['seconds']:.3g} s" for p in row["points"])
    memory = ", ".join(f"{p['temporaries'] / 1e6:.3g}" for p in row["points"])
    return {
        "axis": row["axis"],
        "program": row["name"],
        "seconds": points,
        "exponent": f"{row['exponent']:.2f}",
        "temporaries, MB": memory,
        "exponent of memory": f"{row['memory_exponent']:.2f}",
    }


def _versus(row: Mapping[str, Any]) -> dict[str, str]:
    same, best = (
        "" if row[name] is None else f"{row[name]:.2f} x" for name in ("ratio", "ratio_to_best")
    )
    return {
        "program": row["program"],
        "by": row["by"],
        "seconds": seconds(row["seconds"]),
        "ours, same precision": same,
        "ours, at its best": best,
        "difference in float32": "" if row["error"] is None else f"{row['error']:.1e}",
    }


def seconds(spread: Mapping[str, float]) -> str:
    """Median (lowest to highest)."""
    median, low, high = (spread[name] for name in ("median", "low", "high"))
    return f"{median:.3g} ({low:.3g} to {high:.3g})"
