"""A benchmark's record as a picture: where an imagined chunk's time goes, growth, and PyTorch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH, HEIGHT = 4.2, 3.4  # inches of a panel


def save_figure(path: Path, record: Mapping[str, Any]) -> None:
    """Writes one panel for each section that has something to draw; nothing without any."""
    sections = record["sections"]
    panels = [(draw, name, sections[name]) for name, draw in _PANELS.items() if sections.get(name)]
    if not panels:
        return
    figure = Figure(figsize=(WIDTH * len(panels), HEIGHT), layout="constrained")
    for place, (draw, name, rows) in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), place)
        axes.set_title(name, loc="left")
        draw(axes, rows)
    figure.savefig(path, dpi=120)


def _bars(axes: Axes, rows: list[dict[str, Any]], label: str) -> None:
    names = [row[label] for row in rows]
    seconds = [row["seconds"] for row in rows]
    middle = [s["median"] for s in seconds]
    below = [s["median"] - s["low"] for s in seconds]
    above = [s["high"] - s["median"] for s in seconds]
    places = range(len(rows))
    axes.barh(places, middle, xerr=(below, above), color="#5b8fb9")
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlabel("seconds, median and range")


def _programs(axes: Axes, rows: list[dict[str, Any]]) -> None:
    _bars(axes, rows, "name")


def _growth(axes: Axes, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        sizes = [point["size"] / row["points"][0]["size"] for point in row["points"]]
        seconds = [point["seconds"] for point in row["points"]]
        label = f"{row['axis']}: exponent {row['exponent']:.2f}"
        axes.loglog(sizes, seconds, marker="o", label=label)
    axes.set_xlabel("times the preset's")
    axes.set_ylabel("seconds")
    axes.legend(frameon=False, fontsize="small")


def _versus(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Each program's seconds as multiples of our fastest."""
    shown = [row for row in rows if row["ratio_to_best"] is not None]
    places = range(len(shown))
    axes.barh(places, [row["ratio_to_best"] for row in shown], color="#c08457")
    axes.set_yticks(places, [f"{row['program']}: {row['by']}" for row in shown], fontsize="x-small")
    axes.axvline(1.0, color="black", lw=0.8)
    axes.invert_yaxis()
    axes.set_xlabel("seconds, as multiples of ours")


_PANELS = {
    "imagination": _programs,
    "training": _programs,
    "growth": _growth,
    "PyTorch": _versus,
}
