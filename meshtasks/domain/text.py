"""Values from outside, fit to stand in a sentence."""

from __future__ import annotations

import json

_LARGEST_QUOTED = 10**20  # str() refuses numbers of more than 4,300 digits
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def clip(text: str, limit_chars: int = 60) -> str:
    """``text``, or its beginning and an ellipsis when it is longer."""
    return text if len(text) <= limit_chars else f"{text[:limit_chars]}…"


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
