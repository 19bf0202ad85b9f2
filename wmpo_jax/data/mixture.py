"""Several datasets with weights, listed in a JSON file.

    {"balance": true,
     "datasets": [{"path": "bridge", "weight": 1.0, "recipe": "bridge_orig", "raw_gripper": true},
                  {"path": "my_robot", "weight": 0.5}]}

Paths are relative to the file. With `balance` (the default) a weight multiplies the number of
windows in its dataset, as OpenVLA's loader has it; without, weights are the shares themselves.
Every dataset keeps its own action statistics.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wmpo_jax.data.dataset import Dataset, open_dataset
from wmpo_jax.data.episodes import ReadOptions
from wmpo_jax.data.openx import MAGIC_SOUP_PLUS_MINUS
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import load_json

OPTIONS = {field.name for field in dataclasses.fields(ReadOptions)}


@dataclass(frozen=True, eq=False)
class Mixture:
    """Datasets and their weights; `balance` as in the file."""

    datasets: Sequence[Dataset]
    weights: Sequence[float]
    balance: bool = True

    @property
    def instructions(self) -> tuple[str, ...]:
        """All that is asked for, sorted."""
        return tuple(sorted({e.instruction for d in self.datasets for e in d.episodes}))

    @property
    def action_dim(self) -> int:
        return len(self.datasets[0].statistics.mask)


def open_mixture(path: Path | str, *, on_bad: str = "refuse", verify: str = "all") -> Mixture:
    """Opens a mixture's .json, or any dataset as a mixture of one.

    Raises:
      UserError: an unknown field, a weight that is not positive, actions of different widths, or
        what `open_dataset` finds.
    """
    path = Path(path)
    if path.suffix != ".json":
        return Mixture([open_dataset(path, on_bad=on_bad, verify=verify)], [1.0])
    content = load_json(path)
    listed = content.get("datasets") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not listed:
        raise UserError(f'{path} lists no datasets: write {{"datasets": [{{"path": ...}}]}}.')
    members = [_member(path, entry) for entry in listed]
    datasets = [
        open_dataset(folder, options, on_bad=on_bad, verify=verify)
        for folder, _, options in members
    ]
    widths = {dataset.name: len(dataset.statistics.mask) for dataset in datasets}
    if len(set(widths.values())) > 1:
        raise UserError(f"The actions of {path} have different widths: {widths}; name recipes.")
    return Mixture(datasets, [weight for _, weight, _ in members], content.get("balance", True))


def magic_soup(folder: Path) -> dict[str, Any]:
    """The content of a mixture file for OpenVLA's oxe_magic_soup_plus_minus.

    Args:
      folder: where the datasets of Open X-Embodiment lie under their TFDS names; those that are not
        there are left out.
    """
    datasets = [
        {"path": str(folder / name), "weight": weight, "recipe": name, "raw_gripper": True}
        for name, weight in MAGIC_SOUP_PLUS_MINUS.items()
        if (folder / name).is_dir()
    ]
    return {"balance": True, "datasets": datasets}


def _member(path: Path, entry: Any) -> tuple[Path, float, ReadOptions]:
    if not isinstance(entry, dict) or "path" not in entry:
        raise UserError(f"A dataset of {path} has no path: {entry}.")
    unknown = set(entry) - OPTIONS - {"path", "weight"}
    if unknown:
        raise UserError(
            f"{path} has the unknown field {', '.join(sorted(unknown))}; known are path, weight, "
            f"{', '.join(sorted(OPTIONS))}."
        )
    weight = entry.get("weight", 1.0)
    if not isinstance(weight, int | float) or not weight > 0:
        raise UserError(f"{path} gives {entry['path']} the weight {weight}: write one above 0.")
    options = ReadOptions(**{key: entry[key] for key in OPTIONS & set(entry)})
    return path.parent / entry["path"], float(weight), options
