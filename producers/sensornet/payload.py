"""Bytes from a device: JSON, a number, a state, or plainly nothing."""

from __future__ import annotations

import json
import math
from typing import Any

from meshtasks.domain.errors import SchemaMismatch, UndecodableMessage
from meshtasks.domain.text import clip, described

#: A larger message is not read; no sensor's is a hundredth of it.
MAX_BODY_BYTES = 1 << 20

#: What devices and bridges write for "there is no reading", in lower case.
UNAVAILABLE = frozenset(
    {"", "-", "nan", "none", "null", "n/a", "unknown", "unavailable", "undefined"}
)

_TRUE = frozenset({"on", "true", "1", "yes", "detected", "open"})
_FALSE = frozenset({"off", "false", "0", "no", "clear", "close", "closed"})
_LARGEST = 1e15  # of anything in a house; also keeps huge integers from float()


def text_of(body: bytes) -> str:
    """The body as text, without white space around it.

    Raises:
        UndecodableMessage: it is too large, or not UTF-8.
    """
    if len(body) > MAX_BODY_BYTES:
        message = f"the body has {len(body)} bytes; at most {MAX_BODY_BYTES} are read"
        raise UndecodableMessage(message)
    try:
        return body.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        message = f"the body is not UTF-8: {error.reason} at byte {error.start}"
        raise UndecodableMessage(message) from error


def json_of(body: bytes) -> Any:
    """The body as JSON. ``NaN``, which is no JSON but is sent, becomes None.

    Raises:
        UndecodableMessage: it is not UTF-8 JSON.
    """
    text = text_of(body)
    try:
        value = json.loads(text, parse_constant=lambda _name: None)
        if "\\u" in text:  # half of a surrogate pair, which no UTF-8 can say
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        message = f"the body is not valid JSON: {error}"
        raise UndecodableMessage(message) from error
    return value


def object_of(body: bytes) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        UndecodableMessage: it is not UTF-8 JSON.
        SchemaMismatch: it is JSON, but no object.
    """
    value = json_of(body)
    if not isinstance(value, dict):
        message = f"expected a JSON object, got {described(value)}"
        raise SchemaMismatch(message)
    return value


def is_unavailable(raw: object) -> bool:
    """Whether a device says that it has no value."""
    return raw is None or (
        isinstance(raw, str) and raw.strip().casefold() in UNAVAILABLE
    )


def number_of(raw: object) -> float:
    """A number, which some devices write as text.

    Raises:
        SchemaMismatch: it is none, or not a finite one.
    """
    value = raw
    if isinstance(raw, str):
        try:
            value = float(clip(raw, 100))
        except ValueError:
            value = raw
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or abs(value) > _LARGEST  # before isfinite, which no large integer passes
        or not math.isfinite(value)
    ):
        message = f"expected a number, got {described(raw)}"
        raise SchemaMismatch(message)
    return float(value)


def state_of(raw: object) -> bool:
    """True or false, which devices write in many ways.

    Raises:
        SchemaMismatch: it is neither.
    """
    word = str(raw).strip().casefold() if isinstance(raw, str | bool | int) else ""
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    message = f"expected true or false, got {described(raw)}"
    raise SchemaMismatch(message)
