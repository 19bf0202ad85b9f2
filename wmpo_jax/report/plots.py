"""Plots as SVG that sits inside the page and takes its colors from it, by day and by night.

Matplotlib draws with placeholder colors that become CSS variables; text stays text. Each function
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
from matplotlib.ticker import MaxNLocator, MultipleLocator, PercentFormatter, StrMethodFormatter

from wmpo_jax.report.intervals import wilson
from wmpo_jax.report.record import Curve, RunRecord, comparisons
from wmpo_jax.report.tables import POLICY_NAMES, scores

# Placeholder -> CSS variable of templates/style.css.
INK, MUTED, GRID, BASE, BETTER = "#010101", "#020202", "#030303", "#040404", "#050505"
RUN_COLOURS = ("#060606", "#070707", "#080808", "#090909", "#0a0a0a", "#0b0b0b")
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", BASE: "base", BETTER: "better"} | {
    color: f"run{i}" for i, color in enumerate(RUN_COLOURS)
}
POLICY_COLOURS = {"base": BASE, "wmpo": BETTER}

WIDTH, HEIGHT = 3.5, 2.1  # inches; the page shows a panel 320 to 460 px wide
MAX_POINTS = 400  # per line: more are not visible and make the page large
SMOOTHING_WINDOWS = 25  # a running mean over 1/25 of a noisy curve
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
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
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.4,
}


@contextmanager
def _panel(
    height: float = HEIGHT, left: float = 0.14, head: float = 0.06
) -> Iterator[tuple[Figure, Axes]]:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, height))
        bottom = 0.42 / height
        axes = figure.add_axes((left, bottom, 0.97 - left, 1 - head - bottom))
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
    for color, name in _VARIABLES.items():
        text = text.replace(color, f"var(--{name})")
    return Markup(text)


def learning_curve(stage: str, name: str, curve: Curve) -> Markup:
    """One quantity over the steps of one stage: every point pale, a running mean on top."""
    with _panel(left=0.19) as (figure, axes):
        steps, values = _thin(curve)
        noisy = len(values) >= 2 * SMOOTHING_WINDOWS
        axes.plot(steps, values, color=BETTER, alpha=0.3 if noisy else 1, lw=1 if noisy else 1.6)
        if noisy:
            axes.plot(steps, _running_mean(values), color=BETTER)
        _scale(axes, values)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if len(values) == 1:
            axes.plot(steps, values, "o", color=BETTER, markersize=4)
            axes.set_xticks(steps)
        return _svg(figure, f"{stage}: {name} over steps")


def overlaid(stage: str, name: str, curves: Sequence[Curve | None]) -> Markup:
    """One quantity of several runs, each in the color of its place in `curves`."""
    with _panel(left=0.19) as (figure, axes):
        drawn = [(RUN_COLOURS[i], *_thin(curve)) for i, curve in enumerate(curves) if curve]
        for color, steps, values in drawn:
            noisy = len(values) >= 2 * SMOOTHING_WINDOWS
            axes.plot(steps, _running_mean(values) if noisy else values, color=color, lw=1.4)
        _scale(axes, np.concatenate([values for *_, values in drawn]))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        return _svg(figure, f"{stage}: {name} over steps, one line per run")


def css_variable(run: int) -> str:
    """The variable of style.css that holds the color of run number `run`."""
    return f"--{_VARIABLES[RUN_COLOURS[run]]}"


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
    """A centered mean whose window shrinks at the ends."""
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
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.3g}"))


def imagined_and_real(record: RunRecord) -> Markup | None:
    """Success in imagination during GRPO, with the real success of the policies at both ends."""
    curve = record.metrics.get("improve", {}).get("success")
    if curve is None:
        return None
    with _panel(left=0.16, head=0.14) as (figure, axes):
        axes.plot(*curve, color=MUTED, lw=1.2, label="imagined")
        mode = _sampling_mode(record)
        ends = {"base": curve.steps[0], "wmpo": curve.steps[-1]}
        _checks(axes, record)
        for score in scores(record):
            if score.mode == mode and score.policy in ends:
                _point(axes, float(ends[score.policy]), score.rate, POLICY_COLOURS[score.policy])
                name = f"real, {POLICY_NAMES[score.policy]}"
                axes.plot([], [], "o", color=POLICY_COLOURS[score.policy], ms=4, label=name)
        _success_axis(axes)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        _legend_above(axes)
        return _svg(figure, "Imagined success per iteration and real success before and after")


def _checks(axes: Axes, record: RunRecord) -> None:
    """Real success of the policies in between, with intervals."""
    checks = record.stages.get("improve", {}).get("checks", ())
    for check in checks:
        rate = wilson(round(check["real_success"] * check["n"]), check["n"])
        _point(axes, check["iteration"], rate, INK)
    if checks:
        axes.plot([], [], "o", color=INK, ms=4, label="real, checks")


def _sampling_mode(record: RunRecord) -> str | None:
    """Imagined episodes are sampled, so they are compared with sampled real ones if there are."""
    modes = [score.mode for score in scores(record)]
    return "sampled" if "sampled" in modes else modes[0] if modes else None


def _point(axes: Axes, x: float, rate: Any, color: str) -> None:
    error = [[rate.estimate - rate.low], [rate.high - rate.estimate]]
    axes.errorbar([x], [rate.estimate], yerr=error, fmt="o", color=color, ms=5, capsize=3)


def _success_axis(axes: Axes) -> None:
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_locator(MultipleLocator(0.25))


def psnr_over_horizon(record: RunRecord) -> Markup | None:
    """Image quality of open-loop imagination, frame by frame, against copying the first frame."""
    blocks = comparisons(record)
    if not blocks:
        return None
    with _panel(head=0.2) as (figure, axes):
        colors = {"before": BASE, "after": BETTER}
        for name, block in blocks.items():
            for key, label, style in _PSNR_LINES:
                values = block[key]
                frames = np.arange(1, len(values) + 1)
                axes.plot(frames, values, style, color=colors[name], label=f"{label}, {name} RL")
        axes.set_xlabel("frames ahead", labelpad=1)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        _legend_above(axes)
        return _svg(figure, "PSNR in dB over the horizon, imagination and copied first frame")


_PSNR_LINES = (("psnr_curve", "imagined", "-"), ("psnr_copy_curve", "copied", ":"))


def _legend_above(axes: Axes) -> None:
    """Outside the axes, where it covers no data; one or two rows."""
    columns = 2 if len(axes.get_lines()) == 4 else 3
    axes.legend(loc="lower left", bbox_to_anchor=(-0.03, 0.99), ncols=columns, columnspacing=1)


def calibration(record: RunRecord) -> Markup | None:
    """Reward model: predicted probability against the share that really succeeded.

    Reads `calibration` of stages/reward.json: equally long lists `confidence`, `frequency` and
    `count`, one entry per bin, as `intervals.reliability` makes them.
    """
    bins = record.stages.get("reward", {}).get("calibration")
    if not bins:
        return None
    with _panel(left=0.16, head=0.14) as (figure, axes):
        axes.plot([0, 1], [0, 1], ":", color=MUTED, lw=1, label="perfect")
        count = np.asarray(bins["count"], float)
        filled = count > 0
        x, y = np.asarray(bins["confidence"], float), np.asarray(bins["frequency"], float)
        axes.plot(x[filled], y[filled], color=BETTER, lw=1, alpha=0.5)
        area = 8 + 90 * count[filled] / count.max()
        axes.scatter(x[filled], y[filled], s=area, color=BETTER, lw=0, label="area: windows")
        _success_axis(axes)
        axes.set_xlabel("predicted probability of success", labelpad=1)
        _legend_above(axes)
        return _svg(figure, "Calibration of the reward model")


def seconds_per_stage(record: RunRecord) -> Markup | None:
    """Wall-clock minutes of each stage that has run."""
    stages = {name: result for name, result in record.stages.items() if "seconds" in result}
    known = {name.replace("_", " "): r["seconds"] / 60 for name, r in stages.items()}
    return _bars(known, "minutes", "Minutes per stage") if known else None


def seconds_per_phase(record: RunRecord) -> Markup | None:
    """Where GRPO in imagination spends its seconds."""
    seconds = record.stages.get("improve", {}).get("phase_seconds")
    if not seconds:
        return None
    return _bars(seconds, "seconds", "Seconds per phase of the improvement")


def _bars(values: Mapping[str, float], unit: str, label: str) -> Markup:
    names: Sequence[str] = list(values)[::-1]
    heights = [values[name] for name in names]
    with _panel(height=0.45 + 0.23 * len(names), left=0.27, head=0.01) as (figure, axes):
        bars = axes.barh(names, heights, color=BETTER, height=0.62, alpha=0.85)
        labels = [f"{value:.2g}" if value < 10 else f"{value:.0f}" for value in heights]
        axes.bar_label(bars, labels, padding=3)
        axes.set_xlim(0, 1.15 * max(*heights, 1e-9))
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
