"""Plots as SVG that sits inside the page and takes its colours from it, by day and by night.

Matplotlib draws with placeholder colours that become CSS variables; text stays text. Each function
returns None when the run has not produced its numbers.
"""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from wmpo_jax.report.record import STAGES, Curve, RunRecord, total_seconds
from wmpo_jax.report.tables import POLICY_NAMES, scores

# Placeholder -> CSS variable of templates/style.css.
INK, MUTED, GRID, BASE, BETTER = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", BASE: "base", BETTER: "better"}
POLICY_COLOURS = {"base": BASE, "wmpo": BETTER}

WIDTH, HEIGHT = 3.5, 2.1  # inches; the page shows a panel 320 to 460 px wide
MAX_POINTS = 400  # per line: more cannot be seen and makes the page heavy
SMOOTHING_WINDOWS = 25  # a running mean over 1/25 of a noisy curve
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 8,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "legend.handlelength": 1.4,
}


@contextmanager
def _panel(height: float = HEIGHT, left: float = 0.13) -> Iterator[tuple[Figure, Axes]]:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, height))
        bottom = 0.4 / height
        axes = figure.add_axes((left, bottom, 0.97 - left, 0.94 - bottom))
        yield figure, axes


def _svg(figure: Figure, label: str) -> Markup:
    """The figure as an <svg> element; `label` is read aloud and keeps element ids apart."""
    buffer = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": label}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # never referred to, and the same in all figures
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
    for colour, name in _VARIABLES.items():
        text = text.replace(colour, f"var(--{name})")
    return Markup(text)


def learning_curve(stage: str, name: str, curve: Curve) -> Markup:
    """One quantity over the steps of one stage: every point pale, a running mean on top."""
    with _panel() as (figure, axes):
        steps, values = _thin(curve)
        noisy = len(values) >= 2 * SMOOTHING_WINDOWS
        axes.plot(steps, values, color=BETTER, alpha=0.3 if noisy else 1, lw=1 if noisy else 1.6)
        if noisy:
            axes.plot(steps, _running_mean(values), color=BETTER)
        if len(values) == 1:
            axes.plot(steps, values, "o", color=BETTER, markersize=4)
        _scale(axes, values)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        return _svg(figure, f"{stage}: {name} over steps")


def _thin(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Means of equal groups, MAX_POINTS at most."""
    count = len(curve.values)
    if count <= MAX_POINTS:
        return curve.steps, curve.values
    groups = np.array_split(np.arange(count), MAX_POINTS)
    return (
        np.array([curve.steps[group].mean() for group in groups]),
        np.array([curve.values[group].mean() for group in groups]),
    )


def _running_mean(values: np.ndarray) -> np.ndarray:
    """A centred mean that narrows at the ends instead of inventing values beyond them."""
    half = max(1, len(values) // SMOOTHING_WINDOWS // 2)
    return np.array(
        [values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))], float
    )


def _scale(axes: Axes, values: np.ndarray) -> None:
    """Logarithmic where a positive quantity spans more than a factor of 30."""
    finite = values[np.isfinite(values)]
    if finite.size and finite.min() > 0 and finite.max() / finite.min() > 30:
        axes.set_yscale("log")
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4))


def imagined_and_real(record: RunRecord) -> Markup | None:
    """Success in imagination during GRPO, with the real success of the policies at both ends."""
    curve = record.metrics.get("improve", {}).get("imagined_success")
    if curve is None:
        return None
    with _panel(left=0.15) as (figure, axes):
        axes.plot(*curve, color=MUTED, lw=1.2, label="imagined")
        mode = _sampling_mode(record)
        ends = {"base": curve.steps[0], "wmpo": curve.steps[-1]}
        for score in scores(record):
            if score.mode == mode and score.policy in ends:
                _point(axes, float(ends[score.policy]), score.rate, POLICY_COLOURS[score.policy])
                name = f"real, {POLICY_NAMES[score.policy]}"
                axes.plot([], [], "o", color=POLICY_COLOURS[score.policy], ms=4, label=name)
        _success_axis(axes)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.legend(loc="lower right")
        return _svg(figure, "Imagined success per iteration and real success before and after")


def _sampling_mode(record: RunRecord) -> str | None:
    """Imagined episodes are sampled, so they are compared with sampled real ones if there are."""
    modes = [score.mode for score in scores(record)]
    return "sampled" if "sampled" in modes else modes[0] if modes else None


def _point(axes: Axes, x: float, rate: Any, colour: str) -> None:
    error = [[rate.estimate - rate.low], [rate.high - rate.estimate]]
    axes.errorbar([x], [rate.estimate], yerr=error, fmt="o", color=colour, ms=5, capsize=3)


def _success_axis(axes: Axes) -> None:
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_locator(MaxNLocator(4))


def psnr_over_horizon(record: RunRecord) -> Markup | None:
    """Image quality of open-loop imagination, frame by frame, against copying the first frame."""
    blocks = _honesty_blocks(record)
    if not any("psnr_curve" in block for block in blocks.values()):
        return None
    with _panel() as (figure, axes):
        for (name, block), colour in zip(blocks.items(), (BASE, BETTER)):
            for key, style in (("psnr_curve", "-"), ("psnr_copy_curve", ":")):
                values = block.get(key, [])
                label = "imagined" if style == "-" else "copy of the first frame"
                frames = np.arange(1, len(values) + 1)
                axes.plot(frames, values, style, color=colour, label=f"{label}, {name} RL")
        axes.set_xlabel("frames ahead", labelpad=1)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.legend(loc="upper right")
        return _svg(figure, "PSNR in dB over the horizon, imagination and copied first frame")


def _honesty_blocks(record: RunRecord) -> dict[str, Mapping[str, Any]]:
    blocks = record.stages.get("honesty", {})
    return {name: blocks[name] for name in ("before", "after") if name in blocks}


def calibration(record: RunRecord) -> Markup | None:
    """Reward model: predicted probability against the share that really succeeded.

    Reads `calibration` of stages/reward.json: equally long lists `confidence`, `frequency` and
    `count`, one entry per bin.
    """
    bins = record.stages.get("reward", {}).get("calibration")
    if not bins:
        return None
    with _panel(left=0.15) as (figure, axes):
        axes.plot([0, 1], [0, 1], ":", color=MUTED, lw=1, label="perfect")
        count = np.asarray(bins["count"], float)
        filled = count > 0
        x, y = np.asarray(bins["confidence"], float), np.asarray(bins["frequency"], float)
        axes.plot(x[filled], y[filled], color=BETTER, lw=1, alpha=0.5)
        area = 8 + 90 * count[filled] / count.max()
        axes.scatter(x[filled], y[filled], s=area, color=BETTER, lw=0, label="area: windows")
        _success_axis(axes)
        axes.set_ylim(-0.05, 1.05)
        axes.set_xlabel("predicted probability of success", labelpad=1)
        axes.legend(loc="upper left")
        return _svg(figure, "Calibration of the reward model")


def seconds_per_stage(record: RunRecord) -> Markup | None:
    """Wall-clock minutes of each stage that has run."""
    seconds = {name: total_seconds(record.stages.get(name, {})) for name in STAGES}
    known = {k.replace("_", " "): v / 60 for k, v in seconds.items() if v is not None}
    return _bars(known, "minutes", "Minutes per stage") if known else None


def seconds_per_phase(record: RunRecord) -> Markup | None:
    """Where GRPO in imagination spends its seconds."""
    seconds = record.stages.get("improve", {}).get("seconds")
    if not isinstance(seconds, dict) or not seconds:
        return None
    return _bars(seconds, "seconds", "Seconds per phase of the improvement")


def _bars(values: Mapping[str, float], unit: str, label: str) -> Markup:
    names: Sequence[str] = list(values)[::-1]
    heights = [values[name] for name in names]
    with _panel(height=0.5 + 0.21 * len(names), left=0.25) as (figure, axes):
        axes.barh(names, heights, color=BETTER, height=0.62, alpha=0.85)
        longest = max(heights) or 1.0
        for row, value in enumerate(heights):
            axes.text(value + longest / 60, row, f"{value:.3g}", va="center", fontsize=7.5)
        axes.set_xlim(0, 1.12 * longest)
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.grid(False)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel(unit, labelpad=1)
        return _svg(figure, label)


def curve_groups(record: RunRecord) -> list[dict[str, Any]]:
    """Learning curves by stage, in the order of the paper: {"stage", "panels": [(name, svg)]}."""
    groups = []
    for stage, curves in record.metrics.items():
        panels = [
            (name.replace("_", " "), learning_curve(stage, name, curve))
            for name, curve in curves.items()
            if any(math.isfinite(value) for value in curve.values)
        ]
        groups.append({"stage": stage.replace("_", " "), "panels": panels})
    return groups
