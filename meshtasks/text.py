"""Values from outside, fit to stand in a sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from difflib import get_close_matches

#: Control characters but tab and line feed (C0, DEL, C1), and what makes text run
#: backwards or hides it: marks, embeddings and isolates of direction, characters of no
#: width, and the separators that some terminals break lines at.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u2069\ufeff\ud800-\udfff]"
)

_LARGEST_QUOTED = 10**20  # str() refuses numbers of more than 4,300 digits
_NO_VALUES = frozenset({"", "none", "null", "nan", "unknown", "unavailable"})
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def printable(text: str) -> str:
    r"""``text`` as a terminal may be given it: characters that would steer it, or hide
    what stands there, become ``\u001b`` and such, which is also JSON's spelling."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def without_surrogates(text: str) -> str:
    """``text`` as JSON may have it: AMQP's may hold lone surrogates."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def clip(text: str, limit_chars: int = 60) -> str:
    """``text``, or its beginning and an ellipsis when it is longer."""
    return text if len(text) <= limit_chars else f"{text[:limit_chars]}…"


def ends(text: str, limit_chars: int) -> str:
    """``text``, or its beginning and its end when it is longer: what went wrong often
    stands behind whatever it went wrong with."""
    if len(text) <= limit_chars:
        return text
    tail = limit_chars // 3
    return f"{text[: limit_chars - tail]} … {text[-tail:]}"


def is_no_value(text: str) -> bool:
    """Whether a text stands where a value would, and says that there is none."""
    return text.strip().lower() in _NO_VALUES


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean x?`` if one of the known names is close, else nothing."""
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def described(value: object) -> str:
    """``the text "21,5"``, ``true``, ``an array`` …"""
    match value:
        case None | bool():
            text = json.dumps(value)
        case int() if abs(value) > _LARGEST_QUOTED:
            text = "a number too large"
        case int() | float():
            text = _NOT_FINITE.get(str(value), f"the number {value}")
        case str():
            text = f'the text "{clip(value)}"'
        case list() | tuple():
            text = "an array"
        case dict():
            text = "an object"
        case _:
            text = f"a {type(value).__name__}"
    return text
