"""report/index.html: one self-contained page about a run, written from its workdir alone."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from wmpo_jax.report import plots, tables
from wmpo_jax.report.ladder import ladder_tables
from wmpo_jax.report.record import (
    CYCLE,
    RunRecord,
    imagined_episodes,
    improvements,
    labeled_episodes,
    minutes,
    monitored_episodes,
    read_run,
    real_episodes,
)
from wmpo_jax.report.videos import clip_groups
from wmpo_jax.runtime.files import atomic_write

TEMPLATES = Path(__file__).parent / "templates"


def write_report(workdir_path: Path) -> Path:
    """Writes `report/index.html` from what the stages have left so far.

    The page needs no network and no file beside it. The same workdir gives the same page.

    Returns:
      The path of the page.

    Raises:
      UserError: the workdir is missing, or a file in it cannot be read or the page not written.
    """
    path = workdir_path / "report" / "index.html"
    atomic_write(path, render(read_run(workdir_path)).encode())
    return path


def template(name: str) -> Template:
    """A file of templates/, whose every unknown name is an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def render(record: RunRecord) -> str:
    """The page about one run."""
    return template("page.html").render(
        name=record.name,
        headline=headline(record),
        tiles=_tiles(record),
        result=tables.result_table(record),
        monitor=tables.monitor_table(record),
        stopped=tables.stopped(record),
        gates=tables.gates(record),
        confusions=tables.confusions(record),
        honesty=tables.honesty_table(record),
        ladder=ladder_tables(record),
        panels=_panels(record),
        curves=plots.curve_groups(record),
        videos=clip_groups(record),
        stages=tables.stage_rows(record),
        stages_left=[name.replace("_", " ") for name in CYCLE if name not in record.stages],
        ledger=tables.ledger_table(record),
        config=record.config,
        environment=record.environment,
    )


def headline(record: RunRecord) -> dict[str, Any]:
    """The summary at the top: one sentence and one bar per policy."""
    scores = tables.scores(record)
    if not scores:
        return {"verdict": "Not evaluated yet", "detail": "", "tone": "open", "bars": []}
    mode = scores[0].mode
    bars = [
        {
            "policy": tables.POLICY_NAMES.get(score.policy, score.policy),
            "kind": score.policy,
            "mode": score.mode,
            "value": tables.percent(score.rate.estimate),
            "low": tables.percent(score.rate.low),
            "high": tables.percent(score.rate.high),
            "n": tables.number(score.n),
            "primary": score.mode == mode,
            "hero": score.mode == mode and score.policy in ("base", "wmpo"),
        }
        for score in scores
    ]
    verdict, tone = _verdict(record, mode)
    detail = tables.difference_text(record)
    return {"verdict": verdict, "detail": detail, "tone": tone, "bars": bars, "mode": mode}


def _verdict(record: RunRecord, mode: str) -> tuple[str, str]:
    paired = record.stages["evaluate"].get("paired", {}).get(mode)
    if paired is None:
        return "Success on held-out starts", "open"
    if paired["low"] > 0:
        return "Imagination improved the policy", "good"
    if paired["high"] < 0:
        return "Imagination made the policy worse", "bad"
    return "No clear change", "open"


def _tiles(record: RunRecord) -> list[tuple[str, str]]:
    """(number, meaning) pairs below the headline."""
    rounds = improvements(record)
    found = tables.gates(record)
    labeled = labeled_episodes(record, "wmpo")
    passed = f"{sum(gate['passed'] for gate in found)} of {len(found)}" if found else None
    tiles = [
        (tables.number(labeled or None), "labeled real episodes"),
        (
            tables.number(real_episodes(record, "wmpo") - labeled or None),
            "play episodes, no labels",
        ),
        (tables.number(monitored_episodes(record) or None), "real episodes of checks"),
        (tables.number(imagined_episodes(record)), "imagined episodes"),
        (tables.number(sum(r["iterations"] for r in rounds) or None), "iterations of GRPO"),
        (tables.minutes_text(minutes(record, "wmpo")), "minutes, start to improved"),
        (tables.number(passed), "gates passed"),
    ]
    return [tile for tile in tiles if tile[0] != tables.NOTHING]


def _panels(record: RunRecord) -> dict[str, Any]:
    """The plots that stand beside the gates; those without numbers are left out."""
    drawn = {
        "Imagined and real success": plots.imagined_and_real(record),
        "PSNR over the horizon, dB": plots.psnr_over_horizon(record),
        "Reward model: calibration": plots.calibration(record),
        "Minutes per stage": plots.seconds_per_stage(record),
        "GRPO in imagination: seconds per phase": plots.seconds_per_phase(record),
    }
    return {title: svg for title, svg in drawn.items() if svg is not None}
