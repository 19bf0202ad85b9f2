"""What a person wants to know about a dataset before training on it."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wmpo_jax.data.dataset import Dataset
from wmpo_jax.data.episodes import BadEpisode, Episode, read_episode
from wmpo_jax.data.loading import resized
from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.runtime.files import replacing
from wmpo_jax.runtime.progress import progress

FROZEN = 10  # equal frames in a row, or half of the episode, make it suspicious
FAR = 1.0  # how many times the width of q01..q99 an action may lie outside
ROWS, COLUMNS = 8, 8  # of the contact sheet
SIDE = 112  # pixels of a picture in it
BAR = 18
SHOWN = 10  # instructions and suspicions in the table


@dataclass(frozen=True)
class Suspicion:
    """An episode that a person should look at."""

    name: str
    reason: str


def suspicions(episode: Episode, statistics: ActionStatistics) -> list[str]:
    """Why an episode looks wrong: frozen frames, actions far outside the statistics."""
    reasons = []
    still = longest_still(episode.frames_FHWC)
    if still >= min(FROZEN, max(len(episode.frames_FHWC) // 2, 2)):
        reasons.append(f"{still} equal frames in a row")
    width = np.maximum(statistics.q99 - statistics.q01, 1e-8)
    actions = episode.info.actions_NA
    beyond = np.maximum(statistics.q01 - actions, actions - statistics.q99) / width
    beyond = np.where(statistics.q01 == statistics.q99, 0.0, beyond)
    if beyond.max() > FAR:
        step, dimension = np.unravel_index(beyond.argmax(), beyond.shape)
        reasons.append(
            f"action {step} dimension {dimension} is {actions[step, dimension]:.3g}, the 1 % and "
            f"99 % quantiles are {statistics.q01[dimension]:.3g} and "
            f"{statistics.q99[dimension]:.3g}"
        )
    return reasons


def longest_still(frames_FHWC: np.ndarray) -> int:
    """Length of the longest run of equal frames."""
    longest = run = 1
    for before, after in itertools.pairwise(frames_FHWC):
        run = run + 1 if np.array_equal(before, after) else 1
        longest = max(longest, run)
    return longest


def inspect(dataset: Dataset, sheet: Path) -> str:
    """Reads every episode, writes the contact sheet (PNG) and returns the report as text."""
    count = len(dataset.episodes)
    shown = set(np.linspace(0, count - 1, min(ROWS, count)).round().astype(int).tolist())
    rows: list[Episode] = []
    found = [Suspicion(str(index), reason) for index, reason in dataset.bad]
    outcomes, shapes = Counter(), Counter()
    with progress(count, 0, f"inspect {dataset.name}") as bar:
        for place, entry in enumerate(dataset.episodes):
            try:
                episode = read_episode(dataset.source, entry.index)
            except BadEpisode as error:
                found.append(Suspicion(str(entry.index), str(error)))
                continue
            outcomes[{True: "success", False: "failure", None: "unknown"}[entry.success]] += 1
            height, width = episode.frames_FHWC.shape[1:3]
            shapes[f"of {height} x {width} at {episode.info.fps:g} per second"] += 1
            for reason in suspicions(episode, dataset.statistics):
                found.append(Suspicion(episode.info.name, reason))
            if place in shown:
                rows.append(episode)
            bar.advance()
    with replacing(sheet) as file:
        contact_sheet(rows).save(file, "PNG")
    return "\n".join(_report(dataset, outcomes, shapes, found, sheet))


def contact_sheet(episodes: Sequence[Episode]) -> Image.Image:
    """A row per episode, its frames from left to right in time."""
    sheet = Image.new("RGB", (COLUMNS * SIDE, len(episodes) * (SIDE + BAR)), (24, 27, 33))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for row, episode in enumerate(episodes):
        top, info = row * (SIDE + BAR), episode.info
        outcome = {True: "success", False: "failure", None: ""}[info.success]
        text = f"{info.name}  {info.instruction}  {len(info.actions_NA)} steps  {outcome}"
        draw.text((4, top + 2), text, fill=(236, 239, 244), font=font)
        times = np.linspace(0, len(episode.frames_FHWC) - 1, COLUMNS).round().astype(int)
        for column, frame in enumerate(resized(episode.frames_FHWC[times], SIDE)):
            sheet.paste(Image.fromarray(frame), (column * SIDE, top + BAR))
    return sheet


def _report(
    dataset: Dataset, outcomes: Counter, shapes: Counter, found: Sequence[Suspicion], sheet: Path
) -> list[str]:
    steps = [entry.steps for entry in dataset.episodes]
    words = Counter(entry.instruction or "(none)" for entry in dataset.episodes)
    lines = [
        f"dataset       {dataset.name}",
        f"episodes      {len(steps)} good, {len(dataset.bad)} bad",
        f"outcome       {_counts(outcomes)}",
        f"steps         {sum(steps)} in all; per episode {min(steps)} to {max(steps)}, "
        f"median {np.median(steps):g}",
        f"frames        {_counts(shapes)}",
        f"instructions  {len(words)}",
    ]
    lines += [f"    {number:6d}  {text}" for text, number in words.most_common(SHOWN)]
    lines += ["actions       dimension      min      q01     mean      q99      max  normalized"]
    lines += [f"{'':13s} {row}" for row in _action_rows(dataset.statistics)]
    lines += [f"suspicious    {len(found)}"]
    lines += [f"    {suspicion.name}: {suspicion.reason}" for suspicion in found[:SHOWN]]
    if len(found) > SHOWN:
        lines += [f"    ... and {len(found) - SHOWN} more"]
    return [*lines, f"sheet         {sheet}"]


def _counts(counter: Counter) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counter.items()))


def _action_rows(statistics: ActionStatistics) -> list[str]:
    columns = (statistics.min, statistics.q01, statistics.mean, statistics.q99, statistics.max)
    return [
        f"{dimension:9d} "
        + " ".join(f"{column[dimension]:8.3f}" for column in columns)
        + ("  yes" if statistics.mask[dimension] else "  no")
        for dimension in range(len(statistics.mask))
    ]
