"""Episodes as a TFDS dataset in RLDS's form, written by tensorflow-datasets and TensorFlow."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wmpo_jax.data.episodes import Episode
from wmpo_jax.data.extras import require
from wmpo_jax.data.rlds import SPLIT
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import new_folder

VERSION = "1.0.0"


def write_rlds(path: Path, episodes: Iterable[Episode], file_format: str = "array_record") -> int:
    """Writes a new TFDS dataset, whole or not at all; returns the episodes in it.

    `path`/1.0.0 is the folder to read. Pictures are JPEG, as in LIBERO's. There are as many steps
    as actions: a frame after the last action is dropped, since OpenVLA's loader would take the
    action beside it for real.

    Args:
      file_format: "array_record", or "tfrecord", which OpenVLA's loader reads (extra `rlds`).
    """
    require("tensorflow", "rlds")
    datasets = require("tensorflow_datasets")
    iterator = iter(episodes)
    first = next(iterator, None)
    if first is None:
        raise UserError("An RLDS dataset without episodes cannot be written.")
    count = 0

    def examples() -> Iterator[tuple[int, dict[str, Any]]]:
        nonlocal count
        for episode in itertools.chain([first], iterator):
            yield count, _example(episode)
            count += 1

    with new_folder(path) as folder:
        datasets.dataset_builders.store_as_tfds_dataset(
            name=_identifier(path.name),
            version=VERSION,
            features=_features_of(first, datasets.features),
            split_datasets={SPLIT: examples()},
            data_dir=str(folder),
            file_format=file_format,
            disable_shuffling=True,
        )
        (folder / _identifier(path.name) / VERSION).rename(folder / VERSION)
        (folder / _identifier(path.name)).rmdir()
    return count


def _identifier(name: str) -> str:
    """TFDS wants names of lower case letters, digits and underscores."""
    return "".join(letter if letter.isalnum() else "_" for letter in name.lower())


def _features_of(episode: Episode, features: Any) -> Any:
    picture = features.Image(
        shape=episode.frames_FHWC.shape[1:], dtype=np.uint8, encoding_format="jpeg"
    )
    step = {
        "observation": features.FeaturesDict({episode.info.camera: picture}),
        "action": features.Tensor(shape=episode.info.actions_NA.shape[1:], dtype=np.float32),
        "reward": features.Scalar(dtype=np.float32),
        "discount": features.Scalar(dtype=np.float32),
        **{key: features.Scalar(dtype=np.bool_) for key in ("is_first", "is_last", "is_terminal")},
        "language_instruction": features.Text(),
    }
    metadata = {
        "name": features.Text(),
        "source": features.Text(),
        "fps": features.Scalar(dtype=np.float32),
        **{key: features.Scalar(dtype=np.int64) for key in ("success", "finish_step", "seed")},
    }
    return features.FeaturesDict(
        {"steps": features.Dataset(step), "episode_metadata": features.FeaturesDict(metadata)}
    )


def _example(episode: Episode) -> dict[str, Any]:
    info, steps = episode.info, len(episode.info.actions_NA)
    known = -1 if info.success is None else int(info.success)
    return {
        "steps": [_step(episode, time, time == steps - 1) for time in range(steps)],
        "episode_metadata": {
            "name": info.name,
            "source": info.source,
            "fps": info.fps if info.fps_known else -1.0,
            "success": known,
            "finish_step": info.finish_step,
            "seed": -1 if info.seed is None else info.seed,
        },
    }


def _step(episode: Episode, time: int, last: bool) -> dict[str, Any]:
    info = episode.info
    return {
        "observation": {info.camera: episode.frames_FHWC[time]},
        "action": info.actions_NA[time],
        "reward": float(bool(info.success) and last),
        "discount": 1.0,
        "is_first": time == 0,
        "is_last": last,
        "is_terminal": last,
        "language_instruction": info.instruction,
    }
