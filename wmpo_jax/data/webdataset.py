"""The reference's tars: per sample video.npy, action.npy and meta.json, in WebDataset's naming.

`video.npy` is uint8 [steps + 1, H, W, 3] and `action.npy` float32 [steps, A] in the environment's
units. The reference pads videos with zeros after `finish_step`, so nothing later is read, unless
our own key `steps` says that the arrays are real up to there. The other arrays of its samples
(tokens, pixel values) can be computed again and are not read.

Arrays are stored in the tar uncompressed and read through a memory map: a window costs its own
bytes.
"""

import io
import json
import math
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wmpo_jax.data import places
from wmpo_jax.data.episodes import (
    BadEpisode,
    Episode,
    EpisodeInfo,
    ReadOptions,
    frame_rate,
    seed_of,
    yes_or_no,
)
from wmpo_jax.data.instructions import as_text, sentence
from wmpo_jax.data.machine import refuse_passing
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.files import replacing

COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zX", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd
MEMBERS = ("video.npy", "action.npy", "meta.json")


@dataclass
class _Sample:
    """Where the members of a sample are: offset and size in bytes by name."""

    key: str
    shard: Path
    places: dict[str, tuple[int, int]] = field(default_factory=dict)


class WebDatasetSource:
    """`EpisodeSource` of one .tar or of all in a folder, in the order of their names."""

    def __init__(self, path: Path, options: ReadOptions) -> None:
        self.name = path.name if path.is_dir() else path.stem
        self.files: Sequence[Path] = places.files_named(path, ".tar")
        self._options = options
        self._samples = [sample for shard in self.files for sample in _index(shard)]
        if not self._samples:
            raise UserError(f"{path} holds no samples of {', '.join(MEMBERS)}: give another path.")

    def __len__(self) -> int:
        return len(self._samples)

    def info(self, index: int) -> EpisodeInfo:
        sample, where = self._samples[index], _where(self._samples[index])
        meta = _meta(sample)
        actions, video = _array(sample, "action.npy"), _array(sample, "video.npy")
        complete = meta.get("complete", True)  # the reference's demonstrations lack it
        finish = meta.get("finish_step", len(actions))
        steps = meta.get("steps", finish)
        if type(finish) is not int or type(steps) is not int:
            raise BadEpisode(f"{where} has the steps {steps!r}, finished at {finish!r}")
        if steps > len(actions) or steps > len(video):
            raise BadEpisode(f"{where} claims {steps} steps and holds {len(actions)} actions")
        fps, fps_known = frame_rate(meta.get("fps"), where)
        return EpisodeInfo(
            name=str(meta.get("unique_id") or sample.key),
            actions_NA=np.array(actions[:steps], np.float32),
            num_frames=min(steps + 1, len(video)),
            instruction=sentence(meta.get("instruction"), where) or self._options.instruction,
            success=None if complete is None else yes_or_no(complete, where),
            finish_step=finish,
            camera=as_text(meta.get("camera") or "agentview", where),
            fps=fps,
            source=as_text(meta.get("source") or self.name, where),
            seed=seed_of(meta.get("seed"), where),
            fps_known=fps_known,
        )

    def frames(self, index: int, times_T: np.ndarray) -> np.ndarray:
        frames = np.asarray(_array(self._samples[index], "video.npy")[times_T])
        return frames[:, ::-1, ::-1] if self._options.rotate else frames


def write_webdataset(path: Path, episodes: Iterable[Episode]) -> int:
    """Writes one tar, whole or not at all; returns how many episodes it holds.

    The frame after the last action is kept. An existing tar is replaced.
    """
    count = 0
    with replacing(path) as file, tarfile.open(fileobj=file, mode="w") as tar:
        for episode in episodes:
            for name, content in _members(episode):
                member = tarfile.TarInfo(f"{count:06d}.{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            count += 1
    return count


def _members(episode: Episode) -> Iterable[tuple[str, bytes]]:
    info = episode.info
    meta = {
        "complete": info.success,
        "finish_step": info.finish_step,
        "unique_id": info.name,
        "steps": len(info.actions_NA),
        "instruction": info.instruction,
        "camera": info.camera,
        "fps": info.fps if info.fps_known else None,
        "source": info.source,
        "seed": info.seed,
    }
    yield "video.npy", _npy(episode.frames_FHWC)
    yield "action.npy", _npy(info.actions_NA)
    yield "meta.json", json.dumps(meta).encode()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _index(shard: Path) -> list[_Sample]:
    """The samples of a tar; of a truncated one also the sample that was cut."""
    samples: dict[str, _Sample] = {}
    try:
        # "r:": arrays are mapped in place, which a compressed tar does not allow.
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                key, name = _key(member.name)
                if name:
                    sample = samples.setdefault(key, _Sample(key, shard))
                    sample.places[name] = (member.offset_data, member.size)
    except FileNotFoundError as error:
        raise UserError(f"There is no file {shard}: give another path.") from error
    except tarfile.TarError as error:
        if not samples:
            places.refuse_pointer(shard)
            if _first_bytes(shard).startswith(COMPRESSED):
                raise UserError(f"{shard} is compressed: unpack it first.") from error
            raise UserError(f"{shard} is not a readable tar ({error}): copy it again.") from error
    except OSError as error:
        refuse_passing(error, str(shard))
        raise UserError(f"{shard} cannot be read ({error.strerror}): copy it again.") from error
    return list(samples.values())


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


def _key(path: str) -> tuple[str, str]:
    """(key, member) of a file in a tar; keys may contain dots. The member is "" for other files."""
    name = next((name for name in MEMBERS if path.endswith(f".{name}")), "")
    return path.removesuffix(f".{name}"), name


def _meta(sample: _Sample) -> dict[str, Any]:
    offset, size = _place(sample, "meta.json")
    with sample.shard.open("rb") as file:
        file.seek(offset)
        content = file.read(size)
    try:
        meta = json.loads(content)
    except ValueError as error:
        raise BadEpisode(f"{_where(sample)} has a damaged meta.json ({error})") from error
    if not isinstance(meta, dict):
        raise BadEpisode(f"{_where(sample)} has a meta.json that is not an object")
    return meta


def _array(sample: _Sample, name: str) -> np.ndarray:
    """A memory map of one .npy member."""
    offset, size = _place(sample, name)
    with sample.shard.open("rb") as file:
        file.seek(offset)
        try:
            version = np.lib.format.read_magic(file)
            read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_{version[1]}")
            shape, fortran, dtype = read_header(file)
        except (ValueError, AttributeError) as error:
            raise BadEpisode(f"{_where(sample)} has a damaged {name} ({error})") from error
        begin = file.tell()
    if dtype.hasobject:
        raise BadEpisode(f"{_where(sample)} has Python objects in {name}, not numbers")
    if begin + math.prod(shape) * dtype.itemsize > offset + size:
        raise BadEpisode(f"{_where(sample)} has a damaged {name} (more data than bytes)")
    order = "F" if fortran else "C"
    if not math.prod(shape):
        return np.empty(shape, dtype)  # nothing can be mapped
    return np.memmap(sample.shard, dtype, "r", begin, shape, order)


def _place(sample: _Sample, name: str) -> tuple[int, int]:
    if name not in sample.places:
        raise BadEpisode(f"{_where(sample)} has no {name}")
    offset, size = sample.places[name]
    if offset + size > sample.shard.stat().st_size:
        raise BadEpisode(f"{_where(sample)} is cut off in {name}")
    return offset, size


def _where(sample: _Sample) -> str:
    return f"{sample.shard} sample {sample.key}"
