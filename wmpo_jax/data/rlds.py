"""RLDS datasets as tensorflow-datasets stores them: LIBERO for OpenVLA, Open X-Embodiment.

A record is one episode: `steps` (observation, action, reward, language_instruction, ...) and
`episode_metadata`. Records are read by number, out of TFRecord and ArrayRecord files alike, and
parsed by tensorflow-datasets in NumPy: TensorFlow is needed only to write files. Pictures
are decoded here, one by one when they are asked for, by the decoder that gives TensorFlow's pixels.
"""

import contextlib
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from wmpo_jax.data import openx
from wmpo_jax.data.episodes import (
    BadEpisode,
    EpisodeInfo,
    ReadOptions,
    outcome,
    pick_camera,
)
from wmpo_jax.data.extras import require
from wmpo_jax.data.jpeg import decode_picture
from wmpo_jax.runtime.errors import UserError

FPS = 20.0  # LIBERO's; RLDS does not say
SPLIT = "train"
# What tensorflow-datasets and the file readers raise for a damaged record.
DAMAGE = (DecodeError, OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError)


class RldsSource:
    """`EpisodeSource` of a dataset's folder, the one with features.json in it."""

    def __init__(self, path: Path, options: ReadOptions) -> None:
        datasets = require("tensorflow_datasets")
        try:
            info = datasets.builder_from_directory(str(path)).info
            self._features = info.features
            shards = [Path(str(file)) for file in info.splits[SPLIT].filepaths]
            self._cameras = _pictures(self._features["steps"].feature["observation"])
        except (OSError, KeyError, ValueError, RuntimeError, AttributeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{path} is not a readable RLDS dataset with a split {SPLIT} ({reason}): give the "
                "folder that holds features.json."
            ) from error
        self.name = info.name
        self.files: Sequence[Path] = [path / "features.json", path / "dataset_info.json", *shards]
        self._options = options
        self._decoders = _skipping(datasets, self._cameras)
        self._records = [place for shard in shards for place in _records(shard)]
        if not self._records:
            raise UserError(f"{path} holds no episodes: copy the dataset again.")
        # The frames of an episode are often asked for right after its actions.
        self._episode = lru_cache(maxsize=4)(self._parse)

    def __len__(self) -> int:
        return len(self._records)

    def info(self, index: int) -> EpisodeInfo:
        steps, metadata, where = *self._episode(index), self._where(index)
        stacked = _stack([_numbers(step) for step in steps])
        actions = openx.actions(stacked, self._options.recipe, where)
        success, finish_step = _outcome(metadata, stacked, len(actions))
        return EpisodeInfo(
            name=_text(metadata.get("name", b"")) or str(index),
            actions_NA=actions,
            # Recipes that look at the next state leave the last frame without an action.
            num_frames=min(len(steps) - openx.skip(self._options.recipe), len(actions) + 1),
            instruction=_instruction(steps[0]) or self._options.instruction,
            success=success,
            finish_step=finish_step,
            camera=self._camera(index),
            fps=float(metadata.get("fps", FPS)),
            source=_text(metadata.get("source", b"")) or self.name,
            seed=_seed(metadata),
        )

    def frames(self, index: int, times_T: np.ndarray) -> np.ndarray:
        steps, camera = self._episode(index)[0], self._camera(index)
        steps = steps[openx.skip(self._options.recipe) :]
        try:
            files = [steps[int(time)]["observation"][camera] for time in times_T]
            frames = np.stack([decode_picture(file) for file in files])
        except (ValueError, IndexError) as error:
            raise BadEpisode(f"{self._where(index)} has a damaged picture ({error})") from error
        return frames[:, ::-1, ::-1] if self._options.rotate else frames

    def _parse(self, index: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        try:
            record = _read_record(*self._records[index])
            example = self._features.deserialize_example_np(record, decoders=self._decoders)
            steps, metadata = list(example["steps"]), dict(example.get("episode_metadata", {}))
        except DAMAGE as error:
            raise BadEpisode(f"{self._where(index)} cannot be parsed ({error})") from error
        if not steps:
            raise BadEpisode(f"{self._where(index)} has no steps")
        return steps, metadata

    def _camera(self, index: int) -> str:
        wanted = self._options.camera or openx.camera(self._options.recipe)
        return pick_camera(self._cameras, wanted, self._where(index))

    def _where(self, index: int) -> str:
        shard, place = self._records[index]
        return f"{shard} record {place}"


def _records(shard: Path) -> list[tuple[Path, int]]:
    """(file, place) of every record: a byte offset in a TFRecord, a number in an ArrayRecord."""
    if ".array_record" in shard.name:
        return [(shard, number) for number in range(_count_array_records(shard))]
    return [(shard, offset) for offset in _tfrecord_offsets(shard)]


def _tfrecord_offsets(shard: Path) -> Iterator[int]:
    """A record is its length (uint64), 4 bytes of checksum, the content, 4 bytes of checksum.

    The last record of a truncated file is listed too, and refused when it is read.
    """
    try:
        size = shard.stat().st_size
        with shard.open("rb") as file:
            offset = 0
            while offset < size:
                yield offset
                file.seek(offset)
                header = file.read(8)
                offset += 16 + struct.unpack("<Q", header)[0] if len(header) == 8 else size
    except FileNotFoundError as error:
        raise UserError(f"{shard} is missing: copy the dataset again.") from error


def _read_record(shard: Path, place: int) -> bytes:
    if ".array_record" in shard.name:
        with _array_record_reader(shard) as reader:
            return reader.read([place])[0]
    with shard.open("rb") as file:
        file.seek(place)
        (length,) = struct.unpack("<Q", file.read(8))
        file.seek(4, 1)
        content = file.read(length)
    if len(content) < length:
        raise EOFError("the file is cut off")
    return content


def _count_array_records(shard: Path) -> int:
    if not shard.exists():
        raise UserError(f"{shard} is missing: copy the dataset again.")
    try:
        with _array_record_reader(shard) as reader:
            return reader.num_records()
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{shard} is damaged ({reason}): copy the dataset again.") from error


def _array_record_reader(shard: Path) -> contextlib.closing:
    """Closing tells of damage that opening has passed over."""
    module = require("array_record.python.array_record_module")
    return contextlib.closing(module.ArrayRecordReader(str(shard)))


def _pictures(observation: Any) -> list[str]:
    """Keys of the color pictures among the observations."""
    return [
        key
        for key, feature in observation.items()
        if type(feature).__name__ == "Image" and feature.shape[-1] == 3
    ]


def _skipping(datasets: Any, cameras: list[str]) -> dict[str, Any]:
    skip = {camera: datasets.decode.SkipDecoding() for camera in cameras}
    return {"steps": {"observation": skip}}


def _numbers(value: Any) -> Any:
    """The numeric arrays of a step, in its own nesting; pictures and text are left out."""
    if isinstance(value, dict):
        return {key: _numbers(below) for key, below in value.items() if not _is_text(below)}
    return np.asarray(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, bytes | str) or getattr(value, "dtype", None) == np.object_


def _stack(steps: list[Any]) -> Any:
    """A list of nested dicts of arrays -> one nested dict with a leading time axis."""
    if isinstance(steps[0], dict):
        return {key: _stack([step[key] for step in steps]) for key in steps[0]}
    return np.stack(steps)


def _instruction(step: dict[str, Any]) -> str:
    observation = step["observation"]
    for place, key in (
        (step, "language_instruction"),
        (observation, "natural_language_instruction"),
        (observation, "instruction"),
    ):
        if key in place and _is_text(place[key]):
            return _text(place[key])
    return ""


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _seed(metadata: dict[str, Any]) -> int | None:
    known = "finish_step" in metadata and metadata["seed"] >= 0  # ours
    return int(metadata["seed"]) if known else None


def _outcome(metadata: dict[str, Any], stacked: Any, steps: int) -> tuple[bool | None, int]:
    if "finish_step" in metadata:  # one of ours, where -1 says that nobody knows
        success, finish_step = int(metadata["success"]), int(metadata["finish_step"])
        return (None if success < 0 else bool(success)), finish_step
    return outcome(stacked.get("reward"), steps)
