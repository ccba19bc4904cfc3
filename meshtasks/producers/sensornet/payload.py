"""Parsing of messages of devices: JSON, numbers, states and missing values."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from meshtasks.errors import SchemaMismatch, UndecodableMessage
from meshtasks.text import clip, described

#: Limit of a body in bytes; messages of sensors are less than a hundredth of it.
MAX_BODY_BYTES = 1 << 20
#: Limit of values in a message; the largest messages have a few hundred.
MAX_VALUES = 1_000

#: Texts that devices and bridges send for "no value", in lower case.
_NO_VALUE = frozenset(
    {
        *("", "-", "--", "nan", "-nan", "none", "null", "n/a", "unknown"),
        *("unavailable", "undefined", "inf", "+inf", "-inf", "infinity", "-infinity"),
    }
)

_TRUE = frozenset({"on", "true", "1", "1.0", "yes", "detected", "wet", "alarm"})
_FALSE = frozenset({"off", "false", "0", "0.0", "no", "clear", "dry", "normal"})
_LARGEST = 1e15  # above any measurement; also protects float() from huge integers

#: JSON strings, and what C libraries print for NaN and infinity.
_TEXT_OR_NAN = re.compile(
    r'"(?:[^"\\]|\\.)*+"|(?<![\w.])[-+]?(?:nan|inf(?:inity)?|1\.#[a-z]+)\b',
    re.IGNORECASE,
)

#: Steps from the document to a value; empty for the whole document.
Path = tuple[str, ...]


def text_of(body: bytes) -> str:
    """Return the body as text, without surrounding white space, BOM and zero bytes.

    Raises:
        UndecodableMessage: it is too large, or is not UTF-8.
    """
    if len(body) > MAX_BODY_BYTES:
        message = f"the body has {len(body)} bytes; at most {MAX_BODY_BYTES} are read"
        raise UndecodableMessage(message)
    try:
        return body.decode("utf-8").strip("\ufeff\0 \t\r\n")
    except UnicodeDecodeError as error:
        message = f"the body is not UTF-8: {error.reason} at byte {error.start}"
        raise UndecodableMessage(message) from error


def is_object(body: bytes) -> bool:
    """Return whether the body begins like a JSON object."""
    return body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def json_of(body: bytes) -> Any:
    """Parse the body as JSON.

    ``NaN``, ``nan``, ``inf`` and the like, which are not JSON, become None. A repeated
    name in an object gets a number. An object that is not UTF-8 is read as Latin-1.

    Raises:
        UndecodableMessage: it is too large, is not JSON, or is neither UTF-8 nor an
            object.
    """
    try:
        text = text_of(body)
    except UndecodableMessage:
        if len(body) > MAX_BODY_BYTES or not is_object(body):
            raise
        text = text_of(body.decode("latin-1").encode())
    try:
        try:
            value = _loads(text)
        except ValueError:
            value = _loads(_TEXT_OR_NAN.sub(_text_or_null, text))
        if "\\u" in text:  # a lone surrogate, which UTF-8 cannot encode, is an error
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        message = f"the body is not valid JSON: {error}"
        raise UndecodableMessage(message) from error
    return value


def _loads(text: str) -> Any:
    return json.loads(
        text, parse_constant=lambda _name: None, object_pairs_hook=_object
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    found = {}
    for name, value in pairs:
        distinct, number = name, 1
        while distinct in found:
            number += 1
            distinct = f"{name} ({number})"
        found[distinct] = value
    return found


def _text_or_null(found: re.Match[str]) -> str:
    return found[0] if found[0].startswith('"') else "null"


def document_of(body: bytes) -> Any:
    """Return the body as a JSON object or array if it is one, else as text.

    Raises:
        UndecodableMessage: it is too large, or is not UTF-8.
    """
    if is_object(body):
        with suppress(UndecodableMessage):
            return json_of(body)
    text = text_of(body)
    if text.startswith("["):
        with suppress(UndecodableMessage):
            return json_of(body)
    return text


def object_of(body: bytes) -> dict[str, Any]:
    """Parse the body as a JSON object.

    Raises:
        UndecodableMessage: as :func:`json_of`.
        SchemaMismatch: it is JSON, but not an object.
    """
    value = json_of(body)
    if not isinstance(value, dict):
        message = f"expected a JSON object, got {described(value)}"
        raise SchemaMismatch(message)
    return value


def values_of(document: object) -> Iterator[tuple[Path, object]]:
    """Yield every value that is not an object or array, with its path, in order.

    Raises:
        SchemaMismatch: there are too many values.
    """
    waiting: list[tuple[Path, object]] = [((), document)]
    count = 0
    while waiting:
        path, value = waiting.pop()
        inner: list[tuple[str, Any]]
        if isinstance(value, dict):
            inner = [*value.items()]
        elif isinstance(value, list):
            inner = [(str(index), each) for index, each in enumerate(value)]
        else:
            yield path, value
            continue
        count += len(inner)
        if count > MAX_VALUES:
            message = f"the body has too many values; at most {MAX_VALUES} are read"
            raise SchemaMismatch(message)
        waiting += [((*path, step), each) for step, each in reversed(inner)]


def value_at(document: object, path: Path) -> object:
    """Return the value at a path of a document, or None if there is none."""
    for step in path:
        if isinstance(document, dict):
            document = document.get(step)
        elif isinstance(document, list) and step.isdecimal() and step.isascii():
            document = document[int(step)] if int(step) < len(document) else None
        else:
            return None
    return document


def is_unavailable(raw: object) -> bool:
    """Return whether a value means "no value"."""
    return raw is None or (isinstance(raw, str) and raw.strip().casefold() in _NO_VALUE)


def number_of(raw: object) -> float:
    """Return a value as a number; some devices send numbers as text.

    Raises:
        SchemaMismatch: it is not a finite number, or is too large.
    """
    value = raw
    if isinstance(raw, str) and "_" not in raw:  # float() accepts underscores
        try:
            value = float(clip(raw, 100))
        except ValueError:
            value = raw
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or abs(value) > _LARGEST  # before isfinite, which raises for huge integers
        or not math.isfinite(value)
    ):
        message = f"expected a number, got {described(raw)}"
        raise SchemaMismatch(message)
    return float(value)


def state_of(
    raw: object, words: Mapping[str, bool] | None = None, *, inverted: bool = False
) -> bool:
    """Return a value as true or false, which devices write in many ways.

    Args:
        words: texts with their own meaning; ``inverted`` does not apply to them.
        inverted: whether the other texts mean the opposite.

    Raises:
        SchemaMismatch: the value means neither true nor false.
    """
    word = ""
    if isinstance(raw, str | bool | float) or raw in (0, 1):
        word = str(raw).strip().casefold()
    if words and word in words:
        return words[word]
    if word in _TRUE:
        return not inverted
    if word in _FALSE:
        return inverted
    message = f"expected true or false, got {described(raw)}"
    raise SchemaMismatch(message)


#: Reasons why a value is not a reading. They are tags of metrics, so there are few.
UNKNOWN = "kind unknown"
UNAVAILABLE = "unavailable"
COMPUTED = "computed by a template"
REPEATED = "said in another unit, too"
SETTING = "setting"


class Ignored(NamedTuple):
    """A message that by its nature has no readings; counted by the reason."""

    reason: str


class DeviceTime(NamedTuple):
    """A time that may have no zone: ``2019-01-01T00:00:00``."""

    text: str


class Meaning(NamedTuple):
    """What a value means.

    Attributes:
        kind: name of its kind.
        unit: its unit, if the message gives it.
        usual: its unit if neither message nor configuration gives one.
        part: which of the device's sensors it comes from; empty if the device has only
            one of the kind.
        inverted: whether the device sends the opposite of the kind, for a state.
        stamp: time of this value, if it has its own (see :class:`Payload`).
        is_guess: whether the kind is guessed from a name that the user chose.
    """

    kind: str
    unit: str | None = None
    usual: str | None = None
    part: str = ""
    inverted: bool = False
    stamp: object = None
    is_guess: bool = False


class Passed(NamedTuple):
    """A value that is not a reading according to its format; counted by the reason.

    Attributes:
        reason: one of the constants above, or a text of the format.
        part: which of the device's sensors it comes from, in case it is announced.
        stamp: time of this value, if it has its own (see :class:`Payload`).
        detail: added to its name in the count.
    """

    reason: str = UNKNOWN
    part: str = ""
    stamp: object = None
    detail: str = ""


#: Classification of a value. None means that it describes others: a unit, a time, an
#: address.
Judgement = Meaning | Passed | None


def meanings(
    names_by_kind: Mapping[str, str], *, as_part: bool = False
) -> dict[str, Meaning]:
    """Return name of a value → meaning.

    Args:
        names_by_kind: kind → names separated by blanks. The kind may be followed by a
            blank and the unit, if the format fixes it.
        as_part: whether each name is also a part of the device.
    """
    found = {}
    for kind_and_unit, names in names_by_kind.items():
        kind, _, unit = kind_and_unit.partition(" ")
        for name in names.split():
            part = name if as_part else ""
            found[name] = Meaning(kind, unit=unit or None, part=part)
    return found


def joined(*parts: str) -> str:
    """Return the parts that are not empty, joined by slashes."""
    return "/".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Payload:
    """One parsed message of a device.

    Attributes:
        device: the device, by levels of its topic: ``kitchen/floor_lamp``.
        document: JSON, or the text of a single value.
        judge: classifies the value at a path.
        stamp: time of measurement as sent by the device: RFC 3339 text, epoch seconds
            or milliseconds, or a :class:`DeviceTime`; None if there is none.
        name: name of a document that is a single value.
        elsewhere: routing key → path of the part of the document that is also published
            there. Announcements for the routing key apply to this part.
    """

    device: str
    document: object
    judge: Callable[[Path, object], Judgement]
    stamp: object = None
    name: str = "the body"
    elsewhere: Mapping[str, Path] = field(default_factory=dict)
