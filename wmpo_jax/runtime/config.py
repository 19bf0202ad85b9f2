"""Configs are Python files with `get_config(variant)`; this reads them and their overrides.

The parsing of values is ml_collections' own; what is added here are errors of one sentence.
"""

import contextlib
import difflib
import hashlib
import json
import runpy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict, config_flags

from wmpo_jax.runtime.errors import UserError

PACKAGE = Path(__file__).parents[1]  # an installed package brings the project's configs along


def load_config(spec: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Reads a config and locks it.

    Args:
      spec: a path, `configs/tiny.py`, or with a variant, `configs/tiny.py:smoke`, which calls
        `get_config("smoke")`. What is not there is looked for in the installed package.
      overrides: `field.name=value`, as after `--config.` on the command line; values are parsed
        with the type that the field already has.

    Raises:
      UserError: no such file, variant or field, or a value of the wrong type.
    """
    config = _read_file(spec)
    known = flatten(config)
    for override in overrides:
        _check_field(override, known, spec)
    values = flags.FlagValues()
    argv = ["wmpo_jax", *(f"--config.{override}" for override in overrides)]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    try:
        values(argv)
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(
            f"A --config override of {spec} was refused: {_first_line(error)}"
        ) from error
    return config


def _read_file(spec: str) -> ConfigDict:
    path, _, variant = spec.partition(":")
    if not Path(path).is_file() and (PACKAGE / path).is_file():
        path = str(PACKAGE / path)
    if not Path(path).is_file():
        folders = (Path(path).parent, Path("configs"), PACKAGE / "configs")
        nearby = next(filter(None, (sorted(map(str, f.glob("*.py"))) for f in folders)), [])
        raise UserError(f"There is no config file {path}; choose one of: {', '.join(nearby)}.")
    try:
        with _siblings_are_configs(Path(path).resolve().parent):
            get_config = runpy.run_path(path)["get_config"]
    except SyntaxError as error:
        raise UserError(f"{path} line {error.lineno} is not valid Python: {error.msg}.") from error
    except KeyError as error:
        raise UserError(f"{path} has no function get_config, so it is not a config.") from error
    try:
        config = get_config(variant) if variant else get_config()
    except ValueError as error:
        raise UserError(f"{path} has no variant {variant!r}: {error}.") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"get_config of {path} returned {type(config).__name__}, not ConfigDict.")
    return config


@contextlib.contextmanager
def _siblings_are_configs(folder: Path) -> Iterator[None]:
    """`from configs import base` in a config means its own folder, whatever else has that name."""

    def take() -> dict[str, ModuleType]:
        names = [name for name in sys.modules if name.partition(".")[0] == "configs"]
        return {name: sys.modules.pop(name) for name in names}

    others = take()
    package = ModuleType("configs")
    package.__path__ = [str(folder)]
    sys.modules["configs"] = package
    try:
        yield
    finally:
        take()
        sys.modules.update(others)


def _check_field(override: str, known: dict[str, Any], spec: str) -> None:
    name, equals, _ = override.partition("=")
    if not equals:
        raise UserError(f"--config.{override} has no value: write --config.{name}=VALUE.")
    if name in known:
        return
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    same_leaf = [k for k in known if k.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]]
    hints = list(dict.fromkeys(same_leaf + close))[:4]
    hint = f"did you mean {' or '.join(hints)}?" if hints else "print the file to see its fields."
    raise UserError(f"{spec} has no field {name}; {hint}")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def config_name(spec: str) -> str:
    """`configs/tiny.py:smoke` -> `tiny_smoke`, the default name of the workdir."""
    path, _, variant = spec.partition(":")
    return "_".join(part for part in (Path(path).stem, variant) if part)


def flatten(config: ConfigDict | FrozenConfigDict | dict[str, Any]) -> dict[str, Any]:
    """`{"sft.learning_rate": 1e-3, ...}` with JSON values: tuples are lists, so that a config
    equals itself after a trip through config.json."""
    tree = config if isinstance(config, dict) else config.to_dict()
    flat = {}
    for key, value in json.loads(json.dumps(tree, default=str)).items():
        if isinstance(value, dict):
            flat |= {f"{key}.{below}": leaf for below, leaf in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def config_hash(config: ConfigDict | FrozenConfigDict) -> str:
    """sha256 of the sorted fields: the same in every process and on every machine."""
    text = json.dumps(flatten(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
