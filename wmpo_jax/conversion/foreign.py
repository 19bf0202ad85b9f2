"""Weights as PyTorch programs leave them on disk, read one tensor at a time.

Understood are: one `.safetensors` file; one `.pt`, `.pth` or `.bin` file that holds a state dict;
a folder with one of these or with shards and an index (see `sources`). Nothing in them is trusted:
no file outside the folder is opened, no code in a pickle runs, and whatever does not fit together
is refused.
"""

from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from wmpo_jax.conversion.documents import check_pointer
from wmpo_jax.conversion.sources import locate
from wmpo_jax.conversion.torch_files import TorchFile
from wmpo_jax.runtime.errors import UserError

FLOATS = ("float32", "bfloat16", "float16")
# The names of safetensors' dtypes; any other is no weight and is refused.
SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}


class TensorInfo(NamedTuple):
    """What is known of a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype
    file: Path


class ForeignWeights:
    """The tensors of a checkpoint: `infos` at once, values through `read`.

    Attributes:
      source: as given.
      found: the files that are read, and the folder whose config belongs to them.
      notes: what had to be decided while reading, one sentence each.

    Args:
      source: a weight file, or a folder that holds one or an index of shards.
      kind: as `convert --kind`.

    Raises:
      UserError: no weights there, or files that are damaged, incomplete or not to be trusted.
    """

    def __init__(self, source: Path, kind: str = "") -> None:
        self.source, self.found = source, locate(source, kind)
        self.infos: dict[str, TensorInfo] = {}
        self.notes: list[str] = []
        self._torch_files: dict[Path, TorchFile] = {}
        for file, names in self.found.files.items():
            check_pointer(file)
            found = self._describe(file)
            _check_shard(file, names, found)
            self.infos |= found

    def read(self, name: str) -> np.ndarray:
        """The values, in the dtype they are stored in.

        Raises:
          UserError: a value is NaN or infinite.
        """
        info = self.infos[name]
        if info.file in self._torch_files:
            array = self._torch_files[info.file].read(name)
        else:
            # Opened anew each time: a mapping that stays open keeps every page it has touched.
            with safe_open(info.file, "np") as file:
                array = file.get_tensor(name)
        if not np.isfinite(array).all():
            raise UserError(
                f"{info.file} holds NaN or infinite values in {name}: "
                "take an earlier checkpoint of that training run."
            )
        return array

    def _describe(self, file: Path) -> dict[str, TensorInfo]:
        if file.suffix == ".safetensors":
            return _describe_safetensors(file)
        self._torch_files[file] = TorchFile(file)
        self.notes += self._torch_files[file].notes
        shapes_and_dtypes = self._torch_files[file].describe()
        return {name: TensorInfo(*info, file) for name, info in shapes_and_dtypes.items()}


def _describe_safetensors(path: Path) -> dict[str, TensorInfo]:
    infos = {}
    try:
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118 (a safe_open is not a mapping)
                view = file.get_slice(name)
                code = view.get_dtype()
                if code not in SAFETENSORS_DTYPES:
                    raise UserError(f"{path} stores {name} as {code}, which is no kind of weight.")
                dtype = jnp.dtype(SAFETENSORS_DTYPES[code])
                infos[name] = TensorInfo(tuple(view.get_shape()), dtype, path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is no whole safetensors file ({error}): copy or download it again."
        ) from error
    return infos


def _check_shard(file: Path, names: set[str] | None, found: dict[str, TensorInfo]) -> None:
    if names is not None and names != found.keys():
        lost, extra = sorted(names - found.keys()), sorted(found.keys() - names)
        what = f"lacks {lost[0]}" if lost else f"holds {extra[0]}"
        raise UserError(
            f"{file} {what} ({len(lost) + len(extra)} such names), its index says otherwise: "
            "copy the shards and the index again."
        )
