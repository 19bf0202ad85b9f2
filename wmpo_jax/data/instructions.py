"""Instructions in the types that datasets keep them in: text, bytes, arrays and lists of these."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from wmpo_jax.data.episodes import BadEpisode


def is_text(value: Any) -> bool:
    """Whether a value, an array or a list holds text rather than numbers."""
    return isinstance(value, bytes | str) or np.asarray(value).dtype.kind in "OSU"


def as_text(value: Any, where: str) -> str:
    """One text, of str, UTF-8 bytes or an array of one of them. Raises BadEpisode."""
    (text,) = list(_texts(value, where)) or [""]
    return text


def sentence(value: Any, where: str) -> str:
    """The instruction in a text, or in a list that may hold its words or its letters.

    LIBERO's files hold lists of one text; others hold the words one by one. Raises BadEpisode.
    """
    texts = list(_texts(value, where))
    if len(texts) > 1 and all(len(text) <= 1 for text in texts):
        return _clean("".join(texts))
    if len(texts) > 1 and not any(" " in text.strip() for text in texts):
        return _clean(" ".join(text.strip() for text in texts))
    return next(iter(_phrases(texts)), "")


def phrasing(value: Any, where: str) -> str:
    """The instruction in a text, or the first in a list of several ways to say it.

    Raises:
      BadEpisode: it is a list of single words, which may be a sentence or not.
    """
    phrases = _phrases(_texts(value, where))
    if len(phrases) > 1 and not any(" " in phrase for phrase in phrases):
        listed = ", ".join(repr(phrase) for phrase in phrases[:5])
        raise BadEpisode(
            f"{where} has the list {listed} for an instruction, which may be words of one sentence "
            "or several instructions"
        )
    return phrases[0] if phrases else ""


def one_of(steps: Iterable[Any], where: str) -> str:
    """The one instruction that the steps of an episode have, where they have any.

    Raises:
      BadEpisode: it changes on the way, so that no instruction is that of the episode.
    """
    found = ""
    for number, value in enumerate(steps):
        text = phrasing(value, where)
        if text and found and text != found:
            raise BadEpisode(
                f"{where} changes its instruction at step {number}, from {found!r} to {text!r}"
            )
        found = found or text
    return found


def json_field(holder: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    """The JSON object that a text field holds, {} without the field. Raises BadEpisode."""
    text = as_text(holder[key], where) if key in holder else ""
    try:
        value = json.loads(text or "{}")
    except ValueError as error:
        raise BadEpisode(f"{where} has a {key} that is not JSON ({error})") from error
    return value if isinstance(value, dict) else {}


def _texts(value: Any, where: str) -> Iterable[str]:
    if isinstance(value, bytes):
        try:
            yield value.decode()
        except UnicodeDecodeError as error:
            raise BadEpisode(f"{where} has text that is not UTF-8 ({value[:40]!r})") from error
    elif isinstance(value, str):
        yield str(value)
    elif isinstance(value, np.ndarray | list | tuple):
        for item in value.reshape(-1).tolist() if isinstance(value, np.ndarray) else value:
            yield from _texts(item, where)
    elif value is not None:
        raise BadEpisode(f"{where} has {value!r} where text belongs")


def _phrases(texts: Iterable[str]) -> list[str]:
    return [text for text in dict.fromkeys(map(_clean, texts)) if text]


def _clean(text: str) -> str:
    return text.strip().strip('"').strip()
