"""State dicts in torch's own file format: tensors only, no code, mapped rather than loaded."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

from wmpo_jax.runtime.errors import UserError

PART = 1 << 24  # bytes read at once


class TorchFile:
    """A `.pt`, `.pth` or `.bin` file that holds a mapping from names to dense tensors.

    Attributes:
      notes: which of the entries of a trainer's checkpoint was taken.
    """

    def __init__(self, path: Path) -> None:
        torch = require_torch()
        tensors = _load(path)
        self.notes: list[str] = []
        self._path = path
        self._tensors = self._state_dict(tensors)
        for name, tensor in self._tensors.items():
            dense = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided
            if not isinstance(name, str) or not dense or tensor.is_quantized:
                raise UserError(
                    f"{path} holds {type(tensor).__name__} under '{name}', not a dense tensor: "
                    "save the bare state dict."
                )

    def _state_dict(self, content) -> Mapping:
        """The content itself, or the one state dict that a trainer wrapped together with others."""
        if not isinstance(content, Mapping) or not content:
            raise UserError(
                f"{self._path} holds {type(content).__name__}, not a state dict of tensors: "
                "save it with torch.save(model.state_dict(), file)."
            )
        wrapped = [key for key, value in content.items() if _is_state_dict(value)]
        if len(wrapped) > 1:
            raise UserError(
                f"{self._path} holds several state dicts, {', '.join(map(str, wrapped))}: save the "
                f"one that is meant, with torch.save(torch.load(file)['{wrapped[0]}'], new_file)."
            )
        if not wrapped:
            return content
        self.notes.append(f"The weights are those under '{wrapped[0]}' in {self._path.name}.")
        return content[wrapped[0]]

    def describe(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and dtype of every tensor."""
        return {name: (tuple(x.shape), self._dtype(name)) for name, x in self._tensors.items()}

    def read(self, name: str) -> np.ndarray:
        return to_numpy(self._tensors[name])

    def _dtype(self, name: str) -> np.dtype:
        text = str(self._tensors[name].dtype).removeprefix("torch.")
        try:
            return jnp.dtype(text)
        except TypeError as error:
            raise UserError(
                f"{self._path} stores {name} as {text}, which is no kind of weight."
            ) from error


def _load(path: Path) -> Any:
    """What the file holds, mapped where its format allows."""
    torch = require_torch()
    try:
        # The format before torch 1.6 is no zip archive, cannot be mapped and has no checksums.
        archive = zipfile.is_zipfile(path)
        content = torch.load(path, map_location="cpu", mmap=archive, weights_only=True)
    except Exception as error:  # whatever the parts of a damaged pickle make torch raise
        raise UserError(
            f"{path} is cut off, damaged or a pickle of more than tensors, which is not opened: "
            "copy it again, or save the bare state dict with torch.save(model.state_dict(), file)."
        ) from error
    if archive:
        _check_records(path)
    return content


def _check_records(path: Path) -> None:
    """UserError when a record has another checksum than the archive says; torch looks at none."""
    try:
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                if record.CRC:  # 0 where torch was configured to compute none
                    with archive.open(record) as file:
                        while file.read(PART):
                            pass
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, RuntimeError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}): copy or download it again.") from error


def _is_state_dict(value) -> bool:
    torch = require_torch()
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(tensor, torch.Tensor) for tensor in value.values())
    )


def to_numpy(tensor) -> np.ndarray:
    """A torch tensor's values; NumPy has no bfloat16 of its own, so its bits are relabeled."""
    torch = require_torch()
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(jnp.bfloat16)
    return tensor.numpy()


def to_torch(array: np.ndarray):
    """A torch tensor that shares the memory of `array` where it can."""
    torch = require_torch()
    array = np.ascontiguousarray(array)
    if array.dtype == jnp.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def save_state_dict(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes what `torch.load` reads; all tensors are in memory at once.

    Raises:
      OSError: not all of it could be written, which torch tells as a RuntimeError.
    """
    torch = require_torch()
    try:
        torch.save({name: to_torch(array) for name, array in tensors.items()}, path)
    except RuntimeError as error:
        raise OSError("torch.save failed, perhaps the disk is full") from error


def require_torch() -> ModuleType:
    """torch, or a UserError that says how to get it; safetensors files do without."""
    try:
        import torch
    except ImportError as error:
        raise UserError(
            "torch is needed here: install the extra with pip install 'wmpo_jax[torch]'."
        ) from error
    return torch
