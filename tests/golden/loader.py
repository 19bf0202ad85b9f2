"""Golden tensors: inputs, weights and outputs of the original PyTorch modules, and how to read.

Each file holds inputs, weights and outputs of the original PyTorch modules. `WMPO_GOLDEN` names
another folder (other random sizes, same kinds of file); the default is the copy in this repository.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

DEFAULT_FOLDER = Path(__file__).parent / "data"


def golden_files(prefix: str) -> list[Path]:
    """All files `<prefix>_*.safetensors` of the golden folder.

    Another folder than the default may hold only some kinds: the other tests then have no cases.
    """
    folder = Path(os.environ.get("WMPO_GOLDEN", DEFAULT_FOLDER))
    files = sorted(folder.glob("*_*.safetensors"))
    found = [path for path in files if path.name.startswith(f"{prefix}_")]
    if not files or (folder == DEFAULT_FOLDER and not found):
        raise FileNotFoundError(f"no {prefix}_*.safetensors in {folder}")
    return found


def load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors by name, and the metadata with every JSON value decoded (other values stay text)."""
    with safe_open(path, "np") as file:
        metadata = {name: _decode(text) for name, text in (file.metadata() or {}).items()}
    return load_file(path), metadata


def _decode(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
