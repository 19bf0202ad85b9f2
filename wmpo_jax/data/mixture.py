"""Several datasets with weights, listed in a JSON file.

    {"balance": true,
     "datasets": [{"path": "bridge", "weight": 1.0, "recipe": "bridge_orig", "raw_gripper": true},
                  {"path": "my_robot", "weight": 0.5}]}

Paths are relative to the file. With `balance` (the default) a weight multiplies the number of
windows in its dataset, as OpenVLA's loader has it; without, weights are the shares themselves.
Every dataset keeps its own action statistics.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from wmpo_jax.data import places
from wmpo_jax.data.dataset import Dataset, open_dataset
from wmpo_jax.data.episodes import ReadOptions
from wmpo_jax.data.openx import MAGIC_SOUP_PLUS_MINUS
from wmpo_jax.runtime.errors import UserError

# The options of a dataset and their types, str or bool.
OPTIONS = {field.name: type(field.default) for field in dataclasses.fields(ReadOptions)}
ROTATIONS = (0, 180)  # degrees


@dataclass(frozen=True, eq=False)
class Mixture:
    """Datasets and their weights; `balance` as in the file."""

    datasets: Sequence[Dataset]
    weights: Sequence[float]
    balance: bool = True

    @property
    def instructions(self) -> tuple[str, ...]:
        """All instructions, sorted."""
        return tuple(sorted({e.instruction for d in self.datasets for e in d.episodes}))

    @property
    def action_dim(self) -> int:
        return len(self.datasets[0].statistics.mask)


def open_section(section: ConfigDict) -> Mixture | None:
    """The datasets of a config's section `data`; None when it names no source.

    Raises:
      UserError: a rotation that there is not, options beside a mixture's .json, which has its own,
        or what `open_mixture` finds.
    """
    if not section.source:
        return None
    rotation = section.get("rotation", 0)
    if rotation not in ROTATIONS:
        raise UserError(f"config.data.rotation is {rotation!r}: choose from 0 and 180 degrees.")
    options = ReadOptions(
        camera=section.get("camera", ""),
        instruction=section.get("instruction", ""),
        rotate=rotation == 180,
    )
    return open_mixture(
        section.source, on_bad=section.on_bad, verify=section.verify, options=options
    )


def open_mixture(
    path: Path | str,
    *,
    on_bad: str = "refuse",
    verify: str = "all",
    options: ReadOptions | None = None,
) -> Mixture:
    """Opens a mixture's .json, or any dataset as a mixture of one.

    Args:
      options: of the one dataset; those of a mixture's datasets are in its file.

    Raises:
      UserError: an unknown field, a weight that is not positive, a dataset given twice or as two
        copies, actions of different widths, or what `open_dataset` finds.
    """
    path, options = places.local_path(path), options or ReadOptions()
    if path.suffix.lower() != ".json":
        return Mixture([open_dataset(path, options, on_bad=on_bad, verify=verify)], [1.0])
    if options != ReadOptions():
        raise UserError(
            f"{path} is a mixture: give camera, instruction and rotate there, for each dataset."
        )
    listed, balance = _listing(path)
    members = [_member(path, entry) for entry in listed]
    _check_repetition(path, members)
    datasets = [
        open_dataset(folder, options, on_bad=on_bad, verify=verify)
        for folder, _, options in members
    ]
    _check_copies(path, members, datasets)
    _check_widths(path, members, datasets)
    _name_apart(members, datasets)
    return Mixture(datasets, [weight for _, weight, _ in members], balance)


def _listing(path: Path) -> tuple[list[Any], bool]:
    """The entries of `datasets`, and `balance`."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"There is no readable mixture at {path} ({error.strerror}): give another path."
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): correct it.") from error
    listed = content.get("datasets") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not listed:
        raise UserError(f'{path} lists no datasets: write {{"datasets": [{{"path": ...}}]}}.')
    unknown = set(content) - {"datasets", "balance"}
    if unknown or not isinstance(content.get("balance", True), bool):
        raise UserError(
            f"{path} may have `datasets` and `balance` (true or false) and has "
            f"{', '.join(f'{key}: {value}' for key, value in content.items() if key != 'datasets')}"
            ": correct it."
        )
    return listed, content.get("balance", True)


def _check_repetition(path: Path, members: Sequence[tuple[Path, float, ReadOptions]]) -> None:
    seen = set()
    for folder, _, options in members:
        if (key := (folder.resolve(), options)) in seen:
            raise UserError(f"{path} lists {folder} twice: give it once, with another weight.")
        seen.add(key)


def _check_copies(
    path: Path, members: Sequence[tuple[Path, float, ReadOptions]], datasets: Sequence[Dataset]
) -> None:
    """By content: copies would silently have another weight."""
    seen: dict[tuple[str, ReadOptions], Path] = {}
    for (folder, _, options), dataset in zip(members, datasets, strict=True):
        first = seen.setdefault((dataset.content, options), folder)
        if first != folder:
            raise UserError(
                f"{path} lists {first} and {folder}, which hold the same files: give one of them, "
                "with another weight."
            )


def _name_apart(
    members: Sequence[tuple[Path, float, ReadOptions]], datasets: Sequence[Dataset]
) -> None:
    """Datasets of one name get as much of their paths as tells them apart, or their options."""
    names = [dataset.name for dataset in datasets]
    for name in {name for name in names if names.count(name) > 1}:
        group = [number for number, other in enumerate(names) if other == name]
        parts = [members[number][0].resolve().parts for number in group]
        depth = 1
        while len({p[-depth:] for p in parts}) < len(set(parts)):
            depth += 1
        for number, place in zip(group, parts, strict=True):
            found = dataclasses.asdict(members[number][2])
            options = ", ".join(f"{key} {value}" for key, value in found.items() if value)
            apart = f" ({options})" if parts.count(place) > 1 and options else ""
            datasets[number].source.name = "/".join(place[-depth:]) + apart


def _check_widths(
    path: Path, members: Sequence[tuple[Path, float, ReadOptions]], datasets: Sequence[Dataset]
) -> None:
    """By path: datasets of two people may have one name."""
    widths = [len(dataset.statistics.mask) for dataset in datasets]
    other = next((n for n, width in enumerate(widths) if width != widths[0]), None)
    if other is not None:
        raise UserError(
            f"The datasets of {path} have different widths: {members[0][0]} has {widths[0]} "
            f"numbers per action and {members[other][0]} has {widths[other]}; name recipes, or "
            "leave one out."
        )


def magic_soup(folder: Path) -> dict[str, Any]:
    """The content of a mixture file for OpenVLA's oxe_magic_soup_plus_minus.

    Args:
      folder: where the datasets of Open X-Embodiment are under their TFDS names; those that are not
        there are left out.
    """
    datasets = [
        {"path": str(folder / name), "weight": weight, "recipe": name, "raw_gripper": True}
        for name, weight in MAGIC_SOUP_PLUS_MINUS.items()
        if (folder / name).is_dir()
    ]
    return {"balance": True, "datasets": datasets}


def _member(path: Path, entry: Any) -> tuple[Path, float, ReadOptions]:
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        raise UserError(f"A dataset of {path} has no path: {entry}.")
    unknown = set(entry) - OPTIONS.keys() - {"path", "weight"}
    if unknown:
        raise UserError(
            f"{path} has the unknown field {', '.join(sorted(unknown))}; known are path, weight, "
            f"{', '.join(sorted(OPTIONS))}."
        )
    weight = entry.get("weight", 1.0)
    if type(weight) not in (int, float) or not 0 < weight < float("inf"):
        raise UserError(f"{path} gives {entry['path']} the weight {weight}: write one above 0.")
    options = {key: entry[key] for key in OPTIONS if key in entry}
    for key, value in options.items():
        if type(value) is not OPTIONS[key]:
            kind = "true or false" if OPTIONS[key] is bool else "text"
            raise UserError(f"{path} gives {entry['path']} the {key} {value!r}: write {kind}.")
    folder = places.local_path(entry["path"], path.parent)
    return folder, float(weight), ReadOptions(**options)
