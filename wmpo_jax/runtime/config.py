"""Configs are Python files with `get_config(variant)`; this reads them and their overrides.

The parsing of values is ml_collections' own; what is added here are errors of one sentence, and
the check of every value against the table of `runtime.schema`.
"""

import contextlib
import difflib
import hashlib
import json
import runpy
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict, config_flags

from wmpo_jax.runtime import validation
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.paths import resolve

# Where the project's own configs are found from any folder: in the package, when it was installed
# from a wheel, or beside it in a clone.
PACKAGE = Path(__file__).parents[1]
HOMES = (PACKAGE, PACKAGE.parent)


def load_config(spec: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Reads a config, checks all its values and locks it.

    Args:
      spec: a path, `configs/tiny.py`, or with a variant, `configs/tiny.py:smoke`, which calls
        `get_config("smoke")`. What is not there is looked for where wmpo_jax is installed.
      overrides: `field.name=value`, as after `--config.` on the command line; values are parsed
        with the type that the field already has.

    Raises:
      UserError: no such file, variant or field, a file that cannot be executed, or a value that
        `runtime.schema` does not allow.
    """
    config = _read_file(spec)
    if overrides:
        _override(config, overrides, spec)
    config.lock()
    validation.check(config.to_dict(), spec)
    validation.expand_paths(config)
    return config


def _override(config: ConfigDict, overrides: Sequence[str], spec: str) -> None:
    known = _field_names(config)
    for override in overrides:
        _check_field(override, known, spec)
    values = flags.FlagValues()
    argv = ["wmpo_jax", *(f"--config.{override}" for override in overrides)]
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
    try:
        values(argv)
    # SyntaxError, MemoryError and RecursionError: the values of tuples are parsed as Python.
    except (
        flags.Error, TypeError, ValueError, SyntaxError, MemoryError, RecursionError
    ) as error:  # fmt: skip
        raise UserError(_why_refused(overrides, error)) from error


def _read_file(spec: str) -> ConfigDict:
    name, colon, variant = spec.partition(":")
    path = _find(name)
    if colon and not variant:
        raise UserError(f"--config={spec} names no variant after the colon: add one, or drop it.")
    try:
        with _importable(path.parent.parent):
            found = runpy.run_path(str(path))
            if "get_config" not in found:
                raise UserError(f"{path} has no function get_config, so it is not a config.")
            get_config = found["get_config"]
            config = get_config(variant) if variant else get_config()
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(
            f"{error.filename} line {error.lineno} is not valid Python: {error.msg}."
        ) from error
    except (Exception, SystemExit) as error:  # it is the user's own program
        raise UserError(_why_it_failed(path, variant, error)) from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"get_config of {path} returned {type(config).__name__}, not ConfigDict.")
    return config


def _find(name: str) -> Path:
    given = resolve(name)
    places = [given] if Path(name).is_absolute() else [given, *(home / name for home in HOMES)]
    for place in places:
        if place.is_file():
            return place
    folders = (given.parent, *(home / "configs" for home in HOMES))
    nearby = next(filter(None, (sorted(map(str, f.glob("*.py"))) for f in folders)), [])
    hint = f"choose one of: {', '.join(nearby)}" if nearby else "give the path of a config"
    raise UserError(f"There is no config file {name}; {hint}.")


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """A config may import its neighbors (`from configs import libero`), from wherever it is run."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _why_it_failed(path: Path, variant: str, error: BaseException) -> str:
    """A config refuses a variant with a ValueError; anything else is an accident in it."""
    if isinstance(error, ValueError) and variant:
        return f"{path} has no variant {variant!r}: {error}."
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    line = f" line {frames[-1].lineno}" if frames else ""
    reason = traceback.format_exception_only(error)[-1].strip()[:200]
    return f"{path}{line} failed with {reason}; correct the file."


def _field_names(section: Any, prefix: str = "") -> list[str]:
    names = []
    for key, value in section.items():
        below = isinstance(value, ConfigDict | FrozenConfigDict)
        names += _field_names(value, f"{prefix}{key}.") if below else [f"{prefix}{key}"]
    return names


def _check_field(override: str, known: Sequence[str], spec: str) -> None:
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


def _why_refused(overrides: Sequence[str], error: BaseException) -> str:
    """The flags that the parser names and what the table says of their fields."""
    for override in overrides:
        name, _, value = override.partition("=")
        wanted = validation.wanted(name)
        if wanted and f"--config.{name}=" in str(error):
            return f"--config.{name}={value[:60]} was refused: it must be {wanted}."
    return f"A --config flag was refused: {_first_line(error)}."


def _first_line(error: BaseException) -> str:
    """Of its message; its kind where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


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
