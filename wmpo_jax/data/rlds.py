"""RLDS datasets as tensorflow-datasets stores them: LIBERO for OpenVLA, Open X-Embodiment.

A record is one episode: `steps` (observation, action, reward, language_instruction, ...) and
`episode_metadata`. Records are read by number, out of TFRecord and ArrayRecord files alike, and
parsed by tensorflow-datasets in NumPy: TensorFlow is needed only to write files. Pictures
are decoded here, one by one when they are asked for, by the decoder that gives TensorFlow's pixels.
"""

import contextlib
import itertools
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from wmpo_jax.data import openx, places
from wmpo_jax.data.episodes import (
    BadEpisode,
    EpisodeInfo,
    ReadOptions,
    cause,
    frame_rate,
    outcome,
    pick_camera,
    seed_of,
    yes_or_no,
)
from wmpo_jax.data.extras import require
from wmpo_jax.data.instructions import as_text, is_text, one_of
from wmpo_jax.data.jpeg import decode_picture
from wmpo_jax.data.machine import refuse_passing
from wmpo_jax.runtime.errors import UserError

SPLIT = "train"
# Fields of a step, then of its observation, that hold the instruction. DROID has three ways to say
# it, of which some may be empty.
_OF_STEP = ("language_instruction", "language_instruction_2", "language_instruction_3")
_OF_OBSERVATION = ("natural_language_instruction", "instruction")
_PICTURE_FILES = (b"\xff\xd8", b"\x89PNG")  # how JPEG and PNG begin
# What tensorflow-datasets and the file readers raise for a damaged record.
DAMAGE = (DecodeError, OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError)


class RldsSource:
    """`EpisodeSource` of a dataset's folder, the one with features.json in it."""

    def __init__(self, path: Path, options: ReadOptions) -> None:
        datasets = require("tensorflow_datasets")
        split = options.split or SPLIT
        try:
            info = datasets.builder_from_directory(str(path)).info
            self._features = info.features
            splits = {name: info.splits[name].filepaths for name in info.splits}
            self._cameras = _pictures(self._features["steps"].feature["observation"])
        except (OSError, KeyError, ValueError, RuntimeError, AttributeError) as error:
            refuse_passing(error, str(path))
            raise UserError(
                f"{path} is not a readable RLDS dataset ({cause(error)}): give the folder that "
                "holds features.json."
            ) from error
        if split not in splits:
            known = ", ".join(splits) or "none"
            raise UserError(
                f"{path} has no split {split} (it has: {known}): name one with the option `split`."
            )
        shards = [Path(str(file)) for file in splits[split]]
        self.name = info.name
        self.files: Sequence[Path] = [path / "features.json", path / "dataset_info.json", *shards]
        self._options = options
        self._decoders = _skipping(datasets, self._features, self._cameras)
        self._records = [place for shard in shards for place in _records(shard)]
        if not self._records:
            raise UserError(f"{path} holds no episodes: copy the dataset again.")
        # The frames of an episode are often asked for right after its actions.
        self._episode = lru_cache(maxsize=4)(self._parse)

    def __len__(self) -> int:
        return len(self._records)

    def info(self, index: int) -> EpisodeInfo:
        steps, metadata, where = *self._episode(index), self._where(index)
        cameras = {*self._cameras, *_encoded(steps[0])}
        stacked = _stack([_numbers(step, cameras) for step in steps])
        actions = openx.actions(stacked, self._options.recipe, where)
        success, finish_step = _outcome(metadata, stacked, len(actions), where)
        fps, fps_known = frame_rate(_known(metadata, "fps"), where)
        return EpisodeInfo(
            name=as_text(metadata.get("name", ""), where) or str(index),
            actions_NA=actions,
            # Recipes that look at the next state leave the last frame without an action.
            num_frames=min(len(steps) - openx.skip(self._options.recipe), len(actions) + 1),
            instruction=_instruction(steps, metadata, where) or self._options.instruction,
            success=success,
            finish_step=finish_step,
            camera=self._camera(index, steps[0]),
            fps=fps,
            source=as_text(metadata.get("source", ""), where) or self.name,
            seed=seed_of(_known(metadata, "seed"), where),
            fps_known=fps_known,
        )

    def frames(self, index: int, times_T: np.ndarray) -> np.ndarray:
        steps = self._episode(index)[0]
        camera = self._camera(index, steps[0])
        steps = steps[openx.skip(self._options.recipe) :]
        try:
            files = [steps[int(time)]["observation"][camera] for time in times_T]
            frames = np.stack([_picture(file) for file in files])
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

    def _camera(self, index: int, step: dict[str, Any]) -> str:
        cameras = self._cameras or _encoded(step)
        if not cameras:
            raise BadEpisode(
                f"{self._where(index)} has no pictures of uint8 [H, W, 3] among its observations: "
                f"{', '.join(step['observation'])}"
            )
        wanted = self._options.camera or openx.camera(self._options.recipe)
        return pick_camera(cameras, wanted, self._where(index))

    def _where(self, index: int) -> str:
        shard, place = self._records[index]
        return f"{shard} record {place}"


def _records(shard: Path) -> list[tuple[Path, int]]:
    """(file, place) of every record: a byte offset in a TFRecord, a number in an ArrayRecord."""
    places.refuse_pointer(shard)
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
        # Not read before it is compared: a damaged length may ask for all memory.
        if place + 12 + length > shard.stat().st_size:
            raise EOFError("the file is cut off")
        file.seek(4, 1)
        content = file.read(length)
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
    """Closing raises for damage that opening has passed over."""
    module = require("array_record.python.array_record_module")
    return contextlib.closing(module.ArrayRecordReader(str(shard)))


def _pictures(observation: Any) -> list[str]:
    """Keys of the color pictures among the observations, files or plain arrays."""
    return [
        key
        for key, feature in observation.items()
        if type(feature).__name__ in ("Image", "Tensor")
        and len(feature.shape) == 3
        and feature.shape[-1] == 3
        and feature.np_dtype == np.uint8
    ]


def _skipping(datasets: Any, features: Any, cameras: list[str]) -> dict[str, Any]:
    """Leaves the files of pictures as they are; plain arrays are parsed with the rest."""
    observation = features["steps"].feature["observation"]
    files = [camera for camera in cameras if type(observation[camera]).__name__ == "Image"]
    skip = {camera: datasets.decode.SkipDecoding() for camera in files}
    return {"steps": {"observation": skip}}


def _encoded(step: dict[str, Any]) -> list[str]:
    """Keys of observations that are declared as text and hold the file of a picture."""
    return [
        key
        for key, value in step["observation"].items()
        if isinstance(value, bytes) and value.startswith(_PICTURE_FILES)
    ]


def _picture(value: Any) -> np.ndarray:
    return decode_picture(value) if isinstance(value, bytes) else np.asarray(value)


def _numbers(value: Any, cameras: set[str]) -> Any:
    """The numeric arrays of a step, in its own nesting; pictures and text are left out."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in cameras}
        return {k: _numbers(v, cameras) for k, v in kept.items() if _is_numeric(v)}
    return np.asarray(value)


def _is_numeric(value: Any) -> bool:
    return isinstance(value, dict) or not is_text(value)


def _stack(steps: list[Any]) -> Any:
    """A list of nested dicts of arrays -> one nested dict with a leading time axis."""
    if isinstance(steps[0], dict):
        return {key: _stack([step[key] for step in steps]) for key in steps[0]}
    return np.stack(steps)


def _instruction(steps: list[dict[str, Any]], metadata: dict[str, Any], where: str) -> str:
    """Of the first field that has any; "" when none has."""
    observations = [step["observation"] for step in steps]
    fields = itertools.chain(
        ((steps, key) for key in _OF_STEP),
        ((observations, key) for key in _OF_OBSERVATION),
        (([metadata], key) for key in _OF_STEP),
    )
    for holders, key in fields:
        if key in holders[0] and is_text(holders[0][key]):
            found = one_of((holder[key] for holder in holders), where)
            if found:
                return found
    return ""


def _known(metadata: dict[str, Any], key: str) -> Any:
    """A value of the metadata; None where ours have -1, which says that nobody knows."""
    value = metadata.get(key)
    return None if value is None or (not is_text(value) and value < 0) else value


def _outcome(
    metadata: dict[str, Any], stacked: Any, steps: int, where: str
) -> tuple[bool | None, int]:
    if "success" in metadata or "finish_step" in metadata:
        known = _known(metadata, "success")
        finish_step = _known(metadata, "finish_step")
        success = None if known is None else yes_or_no(known, where)
        return success, steps if finish_step is None else int(finish_step)
    return outcome(stacked.get("reward"), steps)
