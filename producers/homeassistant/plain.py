"""What Home Assistant's integrations put into attributes, as JSON can say it."""

from __future__ import annotations

import math
from collections.abc import Mapping

#: Deeper than any attribute that means something, and less than what parsers on the
#: way refuse.
_DEEPEST = 30
#: Python writes no numbers of more than 4,300 digits, and no store keeps this many.
_LARGEST = 10**308


def plain(value: object, depth: int = 0) -> object:
    """The same value without what JSON cannot say.

    Infinite numbers, NaN and what is nested too deep become null, half characters and
    bytes that are no text become replacement characters, other objects their text.
    """
    result: object
    match value:
        case None | bool():
            result = value
        case str():
            result = _unicode(value)
        case int():
            result = value if abs(value) < _LARGEST else None
        case float():
            result = value if math.isfinite(value) else None
        case bytes():
            result = value.decode("utf-8", "replace")
        case Mapping() if depth < _DEEPEST:
            result = {
                _unicode(str(key)): plain(each, depth + 1)
                for key, each in value.items()
            }
        case list() | tuple() | set() | frozenset() if depth < _DEEPEST:
            result = [plain(each, depth + 1) for each in value]
        case Mapping() | list() | tuple() | set() | frozenset():
            result = None
        case _:
            result = _unicode(str(value))
    return result


def _unicode(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
