"""Which files a checkpoint consists of: the weights, and the folder whose config is theirs.

Nothing is chosen silently: where two sets of weights could be meant, both are named.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from wmpo_jax.conversion.documents import CONFIG, PREPROCESSOR, read_object
from wmpo_jax.runtime.errors import UserError

INDEX = ".index.json"
TORCH_SUFFIXES = (".bin", ".pt", ".pth")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES)
# Files with the suffix of weights that trainers and OpenVLA-OFT leave beside them.
NO_WEIGHTS = re.compile(
    r"(training_args|optimizer|scheduler|scaler|rng_state|random_states|training_state)\b|"
    r"rng_state_|(noisy_action_projector|action_head|proprio_projector)|vision_backbone--"
)
SHARD = re.compile(r"-\d+-of-\d+\.")
# A folder that holds one of these is a model folder: what is in it belongs to its weights.
SIGNS = (CONFIG, PREPROCESSOR, "dataset_statistics.json", "tokenizer.json")
SHOWN = 5


class Source(NamedTuple):
    """What was found.

    Attributes:
      weights: the file or index of shards that is read.
      files: the weight files, each with the names that an index promises (None without one).
      folder: whose config.json and other files belong to the weights; None for a file alone.
    """

    weights: Path
    files: dict[Path, set[str] | None]
    folder: Path | None


def locate(source: Path, kind: str = "") -> Source:
    """The checkpoint at `source`.

    Args:
      source: a weight file, an index of shards, or a folder that holds one of them, itself or in
        model/ (ColossalAI) or vae/ (a diffusers pipeline, for an autoencoder).
      kind: as `convert --kind`.

    Raises:
      UserError: nothing there, several candidates, or an index that is not to be trusted.
    """
    if not source.is_dir():
        weights, files = source, _files(source)
        _check_whole(source)
    else:
        places = [source, source / "model"] + [source / "vae"] * (kind == "autoencoder")
        found = {path: files for place in places for path, files in _candidates(place).items()}
        weights, files = _only(source, found)
    return Source(weights, files, _model_folder(weights.parent, source))


def _files(path: Path) -> dict[Path, set[str] | None]:
    if path.name.endswith(INDEX):
        return dict(_read_index(path))
    if path.suffix not in SUFFIXES:
        raise UserError(
            f"{path} is no weight file: give a .safetensors, .bin, .pt or .pth file, "
            "or a folder that holds some."
        )
    return {path: None}


def _candidates(folder: Path) -> dict[Path, dict[Path, set[str] | None]]:
    """Indices of shards, and weight files that belong to none."""
    if not folder.is_dir():
        return {}
    found = {path: _files(path) for path in sorted(folder.glob(f"*{INDEX}"))}
    sharded = {file for files in found.values() for file in files}
    for path in sorted(folder.iterdir()):
        if path.suffix in SUFFIXES and path not in sharded and not NO_WEIGHTS.match(path.name):
            found[path] = {path: None}
    return found


def _only(
    source: Path, found: dict[Path, dict[Path, set[str] | None]]
) -> tuple[Path, dict[Path, set[str] | None]]:
    names = [str(path.relative_to(source)) for path in found]
    if len(found) == 1:
        ((weights, files),) = found.items()
        _check_whole(weights)
        return weights, files
    if found and all(SHARD.search(name) for name in names):
        raise UserError(
            f"{source} holds {len(names)} shards ({names[0]}, ...) without their index: "
            f"copy the file that ends in {INDEX} too."
        )
    if found:
        raise UserError(
            f"{source} holds {', '.join(names)}: give the one that is meant, as "
            f"--source={source}/NAME."
        )
    inside = [path.name for path in _subfolders(source) if _candidates(path)]
    more = f"; its subfolders {', '.join(inside[:SHOWN])} do, give one of them" if inside else ""
    raise UserError(
        f"There are no weights in {source}"
        + (f"{more}." if more else ": give a .safetensors, .bin, .pt or .pth file, or its folder.")
    )


def _subfolders(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_dir())


def _check_whole(path: Path) -> None:
    """UserError for one shard of several: the others and the index belong to it."""
    if SHARD.search(path.name) and "-00001-of-00001." not in path.name:
        raise UserError(
            f"{path} is one shard of a checkpoint: give the folder, or the file that ends in "
            f"{INDEX}."
        )


def _model_folder(weights: Path, source: Path) -> Path | None:
    """The nearest folder with a config or the like: of the weights, or what their model/ is in."""
    above = [weights.parent] if weights.name == "model" else []
    for folder in (weights, *above, source):
        if any((folder / sign).is_file() for sign in SIGNS):
            return folder
    return None


def _read_index(path: Path) -> dict[Path, set[str]]:
    """An index of shards: tensor names by file, all of them beside the index."""
    files: dict[Path, set[str]] = {}
    for name, file in _weight_map(path).items():
        if Path(file).name != file or "\\" in file or file in ("", ".", ".."):
            raise UserError(
                f"{path} points to '{file}', which is not a plain file name beside it: "
                "such an index is not followed."
            )
        files.setdefault(path.parent / file, set()).add(name)
    for file in files:
        if not file.is_file():
            raise UserError(f"{path} names the shard {file.name}, which is missing: copy it too.")
    return files


def _weight_map(path: Path) -> dict[str, str]:
    names = read_object(path).get("weight_map")
    strings = isinstance(names, dict) and all(isinstance(file, str) for file in names.values())
    if not names or not strings:
        raise UserError(f"{path} has no weight_map from names to files: copy it again.")
    return names
