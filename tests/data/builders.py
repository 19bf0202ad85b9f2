"""Datasets as others make them, with the libraries they use; picture k is k levels bright."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

STEPS = 8


def pictures(steps: int = STEPS, first: int = 0) -> np.ndarray:
    """uint8 [steps, 32, 32, 3]."""
    levels = (first + np.arange(steps)).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (steps, 32, 32, 3)).copy()


def numbered(steps: int = STEPS, first: int = 0) -> np.ndarray:
    """float64 [steps, 7]: the first number of action k is that of picture k."""
    actions = np.zeros((steps, 7))
    actions[:, 0] = first + np.arange(steps)
    actions[:, 6] = np.where(np.arange(steps) % 4 < 2, -1, 1)
    return actions


def hdf5(path: Path, build: Callable[[Any], None]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        build(file)
    return path


def demo(file: Any, number: int = 0, steps: int = STEPS, camera: str = "agentview_rgb") -> Any:
    """A demonstration in robomimic's layout, without an instruction; returns its group."""
    group = file.create_group(f"data/demo_{number}")
    group["actions"] = numbered(steps, 20 * number)
    group[f"obs/{camera}"] = pictures(steps, 20 * number)
    return group


def rlds(
    folder: Path,
    name: str = "arm",
    *,
    fields: dict[str, Any] | None = None,
    observation: dict[str, Any] | None = None,
    step: Callable[[int], dict[str, Any]] = lambda k: {"language_instruction": "go"},
    seen: Callable[[int], dict[str, Any]] = lambda k: {"image": pictures()[k]},
    actions: np.ndarray | None = None,
    metadata: tuple[dict[str, Any], dict[str, Any]] = ({}, {}),
    version: str = "1.0.0",
    split: str = "train",
) -> Path:
    """One episode of `STEPS` steps as tensorflow-datasets stores it; returns the version's folder.

    Args:
      fields, step: features and values of a step beside `action` and `observation`.
      observation, seen: features and values of the observation.
      actions: of other numbers or shape than `numbered` float32.
      metadata: features and values.
    """
    import tensorflow_datasets as tfds

    picture = tfds.features.Image(shape=(32, 32, 3), encoding_format="png")
    actions = numbered().astype(np.float32) if actions is None else actions
    features = {
        "observation": tfds.features.FeaturesDict(observation or {"image": picture}),
        "action": tfds.features.Tensor(shape=actions.shape[1:], dtype=actions.dtype),
        **({"language_instruction": tfds.features.Text()} if fields is None else fields),
    }
    steps = [{"observation": seen(k), "action": actions[k], **step(k)} for k in range(STEPS)]
    whole: dict[str, Any] = {"steps": tfds.features.Dataset(features)}
    example: dict[str, Any] = {"steps": steps}
    if metadata[0]:
        whole["episode_metadata"] = tfds.features.FeaturesDict(metadata[0])
        example["episode_metadata"] = metadata[1]
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version=version,
        features=tfds.features.FeaturesDict(whole),
        split_datasets={split: [(0, example)]},
        data_dir=str(folder),
        file_format="tfrecord",
        disable_shuffling=True,
    )
    return folder / name / version
