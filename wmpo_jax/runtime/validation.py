"""Checks a config against the table of `runtime.schema` and says what is wrong in one sentence."""

import difflib
import functools
import os
import types
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin

import pydantic
from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from ml_collections import ConfigDict

from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.paths import resolve
from wmpo_jax.runtime.schema import PATH, Config, Section

_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}
_BOUNDS = {Ge: ("ge", "at least"), Gt: ("gt", "above"), Le: ("le", "at most"), Lt: ("lt", "below")}


def check(values: Mapping[str, Any], where: str, *, stored: bool = False) -> None:
    """Compares a config with the table.

    Args:
      values: the config as a nested dict.
      where: names it in the message, such as `configs/tiny.py`.
      stored: it comes from a config.json, perhaps an older version's: unknown fields are ignored.

    Raises:
      UserError: a field is missing, unknown, of another type, outside its range, or does not fit
        another field.
    """
    try:
        Config.model_validate(values, extra="ignore" if stored else None)
    except pydantic.ValidationError as error:
        errors = error.errors(include_url=False)
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise UserError(f"{where}: {_sentence(errors[0])}{more}.") from error


def expand_paths(config: ConfigDict) -> None:
    """Replaces a leading ~ in the fields that name files and folders."""
    for name, path in paths(config).items():
        if path.startswith("~"):
            config.update_from_flattened_dict({name: str(resolve(path))})


def check_paths(config: ConfigDict) -> None:
    """Before a workdir exists: what the config names on this machine's disk is there.

    Raises:
      UserError: a file or folder is missing. Addresses (`gs://...`) are left to their readers.
    """
    for name, path in paths(config).items():
        if path and ":" not in path and not os.path.exists(path):
            raise UserError(f"{name} = {path} does not exist: correct the path.")


def paths(config: ConfigDict) -> dict[str, str]:
    """The fields that name files and folders, by their dotted names."""
    found = {}
    for name, (_, metadata) in fields().items():
        section, _, leaf = name.rpartition(".")
        holder: Any = config
        for part in filter(None, section.split(".")):
            holder = holder.get(part, {})
        if PATH in metadata and leaf in holder:
            found[name] = holder[leaf]
    return found


def wanted(name: str) -> str:
    """What the table says of a field, in words; "" of a field that it does not have."""
    return describe(*fields()[name]) if name in fields() else ""


@functools.cache
def fields() -> dict[str, tuple[Any, list[Any]]]:
    """(type, metadata) of every field of the table by its dotted name."""
    return dict(_leaves(Config, ""))


def _leaves(section: type[Section], prefix: str) -> Iterator[tuple[str, tuple[Any, list[Any]]]]:
    for name, info in section.model_fields.items():
        kind, metadata = _plain(info.annotation, info.metadata)
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from _leaves(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", (kind, metadata)


def _plain(annotation: Any, metadata: list[Any]) -> tuple[Any, list[Any]]:
    """Without `| None` and without Annotated."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(a for a in get_args(annotation) if a is not type(None))
    if hasattr(annotation, "__metadata__"):
        inner = pydantic.fields.FieldInfo.from_annotation(annotation)
        return inner.annotation, [*inner.metadata, *metadata]
    return annotation, metadata


def _sentence(error: Any) -> str:
    """One pydantic error in words, without the period."""
    place = [str(part) for part in error["loc"]]
    name = ".".join(place)
    if error["type"] == "value_error":  # of our own validators, which say it all
        reason = str(error["ctx"]["error"])
        leaf = name in fields() or error["input"] is None
        return f"{name} {reason}" if leaf else reason
    if error["type"] == "extra_forbidden":
        return f"there is no field {name}{_nearest(place[-1], _siblings(place))}; delete it"
    wanted = _wanted(place)
    if error["type"] == "missing":
        return f"the field {name} is missing; add it: {wanted}"
    shown, near = _shown(error["input"]), ""
    if error["type"] == "literal_error":
        choices = [str(choice) for choice in _choices(place)]
        near = _nearest(str(error["input"]), choices)
    return f"{name} is {shown}, but must be {wanted}{near}"


def _nearest(word: str, words: list[str]) -> str:
    close = difflib.get_close_matches(word.lower(), words, n=1, cutoff=0.4)
    return f" (did you mean {close[0]}?)" if close else ""


def _siblings(place: list[str]) -> list[str]:
    section: type[Section] = Config
    for part in place[:-1]:
        section = _plain(section.model_fields[part].annotation, [])[0]
    return list(section.model_fields)


def _choices(place: list[str]) -> tuple[Any, ...]:
    return get_args(fields()[".".join(place)][0])


def _wanted(place: list[str]) -> str:
    """What belongs at a place: a field, a number inside a tuple, or a section."""
    known = fields()
    for length in range(len(place), 0, -1):
        name = ".".join(place[:length])
        if name in known:
            return describe(*known[name])
    return "a section with the fields " + ", ".join(_siblings([*place, ""]))


def describe(kind: Any, metadata: list[Any]) -> str:
    """`a whole number, at least 0 and below 200`; the choices of an enumeration; tuples."""
    if get_origin(kind) is Literal:
        *most, last = [str(choice) for choice in get_args(kind)]
        return f"{', '.join(most)} or {last}" if most else last
    if get_origin(kind) is tuple:
        items = [describe(*_plain(item, [])) for item in get_args(kind) if item is not Ellipsis]
        many = Ellipsis in get_args(kind)
        return f"a tuple, each item {items[0]}" if many else f"a pair ({'; '.join(items)})"
    bounds = [
        f"{word} {getattr(bound, attribute):,}".replace(",", "_")
        for bound in metadata
        for attribute, word in [_BOUNDS.get(type(bound), ("", ""))]
        if attribute
    ]
    multiples = [f"a multiple of {m.multiple_of}" for m in metadata if isinstance(m, MultipleOf)]
    return ", ".join([_NAMES[kind], *multiples, *([" and ".join(bounds)] if bounds else [])])


def _shown(value: Any) -> str:
    """At most 60 characters of it."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no whole number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."
