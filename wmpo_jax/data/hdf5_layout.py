"""What an HDF5 file holds: demonstrations, pictures, splits, instructions, outcomes.

robomimic's layout is read, as robomimic, LIBERO, MimicGen, RoboCasa and Isaac Lab write it. Other
layouts that are met often are recognized and refused by name.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wmpo_jax.data.episodes import FPS, frame_rate, outcome, yes_or_no
from wmpo_jax.data.extras import require
from wmpo_jax.data.instructions import as_text, json_field, one_of, sentence
from wmpo_jax.runtime.errors import UserError

SHOWN = 8  # names in a message
# Attributes of a demonstration, of /data or of the file that hold an instruction.
_INSTRUCTIONS = ("language_instruction", "instruction", "task_description", "lang")
# JSON in an attribute, and where an instruction is in it.
_IN_JSON = {
    "ep_meta": ("lang",),  # RoboCasa
    "problem_info": ("language_instruction",),  # LIBERO
    "env_args": ("env_lang",),  # robomimic
}
RENDER = "render them with robomimic's dataset_states_to_obs.py first"
STORE = "store them as uint8 [N, H, W, 3]"


def demo_names(archive: Any, path: Path) -> list[str]:
    """Names of the groups in /data that are demonstrations, by number: demo_2 before demo_10.

    Raises:
      UserError: there are none; the message says what the file is instead.
    """
    data = archive.get("data")
    groups = _groups(data) if data is not None else []
    names = [name for name in groups if name.startswith("demo_")]
    names = names or [name for name in groups if data is not None and "actions" in data[name]]
    if not names:
        raise UserError(
            f"{path} has no groups data/demo_<i> ({_instead(archive)}): give a file of robomimic's "
            "layout, or convert it to a format of docs/data.md."
        )
    return sorted(names, key=_natural)


def splits(archive: Any) -> dict[str, set[str]]:
    """robomimic's filter keys: names of demonstrations by the name of a split."""
    mask = archive.get("mask", {})
    return {name: {as_text(row, "mask") for row in np.asarray(mask[name])} for name in mask}


def pictures(demo: Any) -> dict[str, Any]:
    """The color pictures of a demonstration, uint8 [N, H, W, 3], by their names below obs."""
    return {
        name: array
        for name, array in _arrays(demo).items()
        if array.ndim == 4 and array.shape[-1] == 3 and array.dtype == np.uint8
    }


def without_pictures(demo: Any) -> tuple[str, str]:
    """Why `pictures` found none, and what to do."""
    arrays = _arrays(demo)
    similar = [f"{k} is {a.dtype} {list(a.shape)}" for k, a in arrays.items() if _may_be_video(a)]
    if similar:
        return f"has no color pictures in obs ({', '.join(similar[:SHOWN])})", STORE
    if arrays:
        return f"has no pictures in obs ({_listed(arrays)})", RENDER
    return f"has no pictures: no obs beside {_listed(demo)}", RENDER


def _may_be_video(array: Any) -> bool:
    """Pictures of other kinds, or encoded ones."""
    return array.ndim >= 4 or array.dtype.kind in "OSV" or (array.ndim < 3 and array.dtype == "u1")


def frames_per_second(demo: Any, data: Any, where: str) -> tuple[float, bool]:
    """(fps, fps_known) from attributes or the environment's arguments."""
    for holder in (demo.attrs, data.attrs, data.parent.attrs):
        for key in ("fps", "control_freq"):
            if key in holder:
                return frame_rate(holder[key], where)
    arguments = json_field(data.attrs, "env_args", where)
    keywords, simulation = (arguments.get(key) or {} for key in ("env_kwargs", "sim_args"))
    if keywords.get("control_freq"):
        return frame_rate(keywords["control_freq"], where)
    if simulation.get("dt") and simulation.get("decimation"):  # Isaac Lab
        return 1.0 / (float(simulation["dt"]) * int(simulation["decimation"])), True
    return FPS, False


def instruction(demo: Any, data: Any, where: str) -> str:
    """The nearest one to the demonstration; "" when the file has none."""
    dataset = require("h5py").Dataset
    arrays = [key for key in _INSTRUCTIONS if isinstance(demo.get(key), dataset)]
    # One text, or one for each step.
    stored = {key: one_of(np.ravel(demo[key][()]).tolist(), where) for key in arrays}
    for holder in (stored, demo.attrs, data.attrs, data.parent.attrs):
        for key in _INSTRUCTIONS:
            if key in holder and (found := sentence(holder[key], where)):
                return found
        for key, inner in _IN_JSON.items():
            if found := _in_json(json_field(holder, key, where), inner, where):
                return found
    return ""


def result(demo: Any, steps: int, where: str) -> tuple[bool | None, int]:
    """(success, finish_step): what the demonstration says itself, else its sparse rewards."""
    rewards = np.asarray(demo["rewards"]) if "rewards" in demo else None
    success, finish_step = outcome(rewards, steps)
    if "success" in demo.attrs:
        said = yes_or_no(np.asarray(demo.attrs["success"]), where)
        return said, finish_step if said and success else steps
    if "success" in demo and hasattr(demo["success"], "shape"):
        return outcome(np.asarray(demo["success"]), steps)
    return success, finish_step


def upside_down(data: Any) -> bool:
    """Whether the file says that the first row of its pictures is the lowest, as LIBERO's do."""
    convention = data.attrs.get("macros_image_convention", "")
    return as_text(convention, "macros_image_convention") == "opengl"


def _in_json(content: Mapping[str, Any], keys: Sequence[str], where: str) -> str:
    return next((sentence(content[key], where) for key in keys if content.get(key)), "")


def _arrays(demo: Any) -> dict[str, Any]:
    """All datasets below obs, those in nested groups too, by their path."""
    dataset, found = require("h5py").Dataset, {}
    if "obs" in demo and not isinstance(demo["obs"], dataset):
        demo["obs"].visititems(
            lambda name, item: found.update({name: item} if isinstance(item, dataset) else {})
        )
    return found


def _groups(holder: Any) -> list[str]:
    group = require("h5py").Group
    return [name for name in holder if isinstance(holder.get(name), group)]


def _instead(archive: Any) -> str:
    """What a file without demonstrations is, or what it holds."""
    if "action" in archive and "observations" in archive:
        return "this is an episode of ALOHA or ACT: action and observations/images"
    if any(name.startswith("traj_") for name in archive):
        return "these are trajectories of ManiSkill: traj_<i> with obs/sensor_data"
    if "data" not in archive:
        return f"it holds {_listed(archive)}"
    return f"data holds {_listed(archive['data'])}"


def _listed(names: Any) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "nothing") + more


def _natural(name: str) -> tuple[int, str]:
    numbers = re.findall(r"\d+", name)
    return (int(numbers[-1]) if numbers else -1, name)
