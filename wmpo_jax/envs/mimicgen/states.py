"""The reference's stored initial states: numbers and text out of pickle files, no code is run.

A file (verl/utils/dataset/<task>_d0_states.pkl in the reference repository) is a list of dicts:
`states`, robosuite's flattened time, positions and velocities, and `model`, the scene as XML.
"""

import dataclasses
import io
import pickle
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core import multiarray, numeric

from wmpo_jax.runtime.errors import UserError


def _latin1(text: str, encoding: str) -> bytes:
    """How old pickles store bytes; other encodings (some decompress) are not needed."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes text as {encoding}")
    return text.encode("latin1")


# What a pickled array of numbers is made of; NumPy 1 and 2 name the modules differently.
_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
} | {
    (f"numpy.{core}.{module.__name__.split('.')[-1]}", name): getattr(module, name)
    for core in ("core", "_core")
    for module, name in (
        (multiarray, "_reconstruct"),
        (multiarray, "scalar"),
        (numeric, "_frombuffer"),
    )
}


@dataclasses.dataclass(frozen=True)
class InitialState:
    """One stored start.

    Attributes:
      numbers: time, positions and velocities, float64 [1 + nq + nv].
      places: of the scene's outermost bodies, by name: position (meters), or with its quaternion.
    """

    numbers: np.ndarray
    places: dict[str, np.ndarray]


class _Numbers(pickle.Unpickler):
    """Arrays, text and containers; any other class or function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError as error:
            raise pickle.UnpicklingError(f"it calls {module}.{name}") from error


def read(path: str | Path) -> list[InitialState]:
    """All states of a file.

    Raises:
      UserError: there is no such file, it holds other things than numbers and text, or others than
        expected.
    """
    try:
        rows = _Numbers(io.BytesIO(Path(path).expanduser().read_bytes())).load()
        if not isinstance(rows, list) or not rows:
            raise ValueError(f"a list of states was expected, not {type(rows).__name__} or nothing")
        return [_state(row) for row in rows]
    except OSError as error:
        raise UserError(
            f"{path} with MimicGen's initial states cannot be read ({error.strerror}): set "
            "config.mimicgen.states to a *_d0_states.pkl of the reference, or to ''."
        ) from error
    except Exception as error:  # a damaged pickle raises anything
        raise UserError(
            f"{path} is not a file of initial states as the reference stores them ({error}): set "
            "config.mimicgen.states to one of its *_d0_states.pkl, or to ''."
        ) from error


def _state(row: Any) -> InitialState:
    numbers = np.asarray(row["states"])
    if numbers.ndim != 1 or numbers.dtype.kind not in "fiu" or not np.isfinite(numbers).all():
        raise ValueError(f"states are {numbers.dtype} {list(numbers.shape)}, not finite numbers")
    return InitialState(numbers.astype(np.float64), _places(row["model"]))


def _places(xml: str) -> dict[str, np.ndarray]:
    root = ElementTree.fromstring(xml)
    return {
        body.attrib["name"]: np.array(
            f"{body.attrib['pos']} {body.attrib.get('quat', '')}".split(), float
        )
        for body in root.iterfind("worldbody/body")
        if "name" in body.attrib and "pos" in body.attrib
    }
