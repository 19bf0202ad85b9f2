"""What a person wants to know about a dataset before training on it."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wmpo_jax.data.dataset import Dataset
from wmpo_jax.data.episodes import BadEpisode, Episode, EpisodeInfo, read_episode
from wmpo_jax.data.loading import resized
from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import replacing
from wmpo_jax.runtime.progress import progress

FROZEN = 10  # equal frames in a row, or half of the episode, make it suspicious
FAR = 1.0  # how many times the width of q01..q99 an action may be outside
ROWS, COLUMNS = 8, 8  # of the contact sheet
SIDE = 112  # pixels of a picture in it
BAR = 18
SHOWN = 10  # instructions and suspicions in the table
NO_INSTRUCTION = "(none)"
OUTCOMES = {True: "success", False: "failure", None: "unknown"}


@dataclass(frozen=True)
class Suspicion:
    """An episode that a person should look at."""

    name: str
    reason: str


def far_actions(actions_NA: np.ndarray, statistics: ActionStatistics) -> list[str]:
    """The action farthest outside the statistics, if it is suspiciously far."""
    width = np.maximum(statistics.q99 - statistics.q01, 1e-8)
    beyond = np.maximum(statistics.q01 - actions_NA, actions_NA - statistics.q99) / width
    beyond = np.where(statistics.constant_A | statistics.rare_A, 0.0, beyond)
    if beyond.max() <= FAR:
        return []
    step, dimension = np.unravel_index(beyond.argmax(), beyond.shape)
    return [
        f"action {step} dimension {dimension} is {actions_NA[step, dimension]:.3g}, the 1 % and "
        f"99 % quantiles are {statistics.q01[dimension]:.3g} and {statistics.q99[dimension]:.3g}"
    ]


def still_frames(frames_FHWC: np.ndarray) -> list[str]:
    """The longest run of equal frames, if it is suspiciously long."""
    still = longest_still(frames_FHWC)
    if still < min(FROZEN, max(len(frames_FHWC) // 2, 2)):
        return []
    return [f"{still} equal frames in a row"]


def longest_still(frames_FHWC: np.ndarray) -> int:
    """Length of the longest run of equal frames."""
    longest = run = 1
    for before, after in itertools.pairwise(frames_FHWC):
        run = run + 1 if np.array_equal(before, after) else 1
        longest = max(longest, run)
    return longest


@dataclass
class Findings:
    """What reading every episode has shown; `infos` and `shapes` are those of the good ones."""

    infos: list[EpisodeInfo] = field(default_factory=list)
    shapes: Counter[str] = field(default_factory=Counter)
    bad: list[Suspicion] = field(default_factory=list)
    suspicious: list[Suspicion] = field(default_factory=list)
    rows: list[Episode] = field(default_factory=list)  # of the contact sheet


def inspect(dataset: Dataset, sheet: Path, chunk: int) -> str:
    """Reads every episode, writes the contact sheet (PNG) and returns the report as text.

    Counts and statistics are over the episodes whose frames can all be read, as in training.

    Args:
      chunk: actions per chunk; episodes that have fewer are counted as too short to train on.

    Raises:
      UserError: no episode can be read.
    """
    found = _read_all(dataset)
    if not found.infos:
        raise UserError(
            f"No episode of {dataset.name} can be used, the first: {found.bad[0].reason}."
        )
    actions_NA = np.concatenate([info.actions_NA for info in found.infos])
    statistics = ActionStatistics.from_actions(actions_NA, dataset.statistics.mask)
    for info in found.infos:
        for reason in far_actions(info.actions_NA, statistics):
            found.suspicious.append(Suspicion(info.name, reason))
    with replacing(sheet) as file:
        contact_sheet(found.rows).save(file, "PNG")
    lines = [*_counts(dataset, found, chunk), *_instructions(found), *_actions(statistics)]
    lines += _listed("bad", found.bad) + _listed("suspicious", found.suspicious)
    return "\n".join([*lines, f"sheet         {sheet}"])


def _read_all(dataset: Dataset) -> Findings:
    found = Findings(bad=[Suspicion(f"episode {index}", reason) for index, reason in dataset.bad])
    count = len(dataset.episodes)
    shown = set(np.linspace(0, count - 1, min(ROWS, count)).round().astype(int).tolist())
    expected: tuple[int, ...] = ()
    with progress(count, 0, f"inspect {dataset.name}") as bar:
        for place, entry in enumerate(dataset.episodes):
            bar.advance()
            try:
                episode = read_episode(dataset.source, entry.index)
                expected = expected or episode.frames_FHWC.shape[1:]
                if episode.frames_FHWC.shape[1:] != expected:
                    raise BadEpisode(
                        f"has frames of {list(episode.frames_FHWC.shape[1:])}, others of "
                        f"{list(expected)}"
                    )
            except BadEpisode as error:
                found.bad.append(Suspicion(f"episode {entry.index}", str(error)))
                continue
            found.infos.append(episode.info)
            found.shapes[_shape(episode)] += 1
            for reason in still_frames(episode.frames_FHWC):
                found.suspicious.append(Suspicion(episode.info.name, reason))
            if place in shown:
                found.rows.append(episode)
    return found


def _shape(episode: Episode) -> str:
    height, width = episode.frames_FHWC.shape[1:3]
    assumed = "" if episode.info.fps_known else " (assumed: the dataset does not say)"
    return f"of {height} x {width} at {episode.info.fps:g} per second{assumed}"


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


def _counts(dataset: Dataset, found: Findings, chunk: int) -> list[str]:
    steps = [len(info.actions_NA) for info in found.infos]
    short = [info.name for info in found.infos if len(info.actions_NA) < chunk]
    outcomes = Counter(OUTCOMES[info.success] for info in found.infos)
    episodes = f"{len(steps) - len(short)} good, {len(found.bad)} bad"
    if short:
        episodes += (
            f", {len(short)} too short for a chunk of {chunk} actions (--chunk): "
            f"{', '.join(short[:SHOWN])}"
        )
    return [
        f"dataset       {dataset.name}",
        f"episodes      {episodes}",
        f"camera        {_numbered(Counter(info.camera for info in found.infos))}",
        f"outcome       {_numbered(outcomes)}",
        f"steps         {sum(steps)} in all; per episode {min(steps)} to {max(steps)}, "
        f"median {np.median(steps):g}",
        f"frames        {_numbered(found.shapes)}",
    ]


def _instructions(found: Findings) -> list[str]:
    texts = Counter(info.instruction or NO_INSTRUCTION for info in found.infos)
    silent = texts[NO_INSTRUCTION]
    lines = [f"instructions  {len(texts) - bool(silent)}"]
    if silent:
        lines[0] += f"; {silent} of {len(found.infos)} episodes have none (--instruction)"
    return lines + [f"    {number:6d}  {text}" for text, number in texts.most_common(SHOWN)]


def _actions(statistics: ActionStatistics) -> list[str]:
    """A table, a row per dimension."""
    names = ("min", "q01", "mean", "q99", "max")
    columns = [np.asarray(getattr(statistics, name)) for name in names]
    lines = ["actions       dimension " + " ".join(f"{n:>8s}" for n in names) + "  normalized"]
    for dimension in range(len(statistics.mask)):
        numbers = " ".join(f"{column[dimension]:8.3f}" for column in columns)
        how = "by its quantiles" if statistics.mask[dimension] else "no"
        if statistics.constant_A[dimension]:
            how = "to 0, it never moves"
        elif statistics.rare_A[dimension]:
            how = "by min and max, it moves in less than 2 % of the steps"
        lines.append(f"{'':13s} {dimension:9d} {numbers}  {how}")
    return lines


def _listed(what: str, suspicions: Sequence[Suspicion]) -> list[str]:
    lines = [f"{what:13s} {len(suspicions)}"]
    lines += [f"    {suspicion.name}: {suspicion.reason}" for suspicion in suspicions[:SHOWN]]
    if len(suspicions) > SHOWN:
        lines.append(f"    ... and {len(suspicions) - SHOWN} more")
    return lines


def _numbered(counter: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counter.items()))
