"""Bytes from a device: JSON, a number, a state, or plainly nothing."""

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

#: A larger message is not read; no sensor's is a hundredth of it.
MAX_BODY_BYTES = 1 << 20
#: A message with more values is not read; the largest of a device has some hundred.
MAX_VALUES = 1_000

#: What devices and bridges write for "there is no reading", in lower case.
_NO_VALUE = frozenset(
    {
        *("", "-", "--", "nan", "-nan", "none", "null", "n/a", "unknown"),
        *("unavailable", "undefined", "inf", "+inf", "-inf", "infinity", "-infinity"),
    }
)

_TRUE = frozenset({"on", "true", "1", "1.0", "yes", "detected", "wet", "alarm"})
_FALSE = frozenset({"off", "false", "0", "0.0", "no", "clear", "dry", "normal"})
_LARGEST = 1e15  # of anything in a house; also keeps huge integers from float()

#: Texts of a JSON document, and what C libraries print for numbers that are none.
_TEXT_OR_NAN = re.compile(
    r'"(?:[^"\\]|\\.)*+"|(?<![\w.])[-+]?(?:nan|inf(?:inity)?|1\.#[a-z]+)\b',
    re.IGNORECASE,
)

#: Where a value stands in a document; empty for the whole.
Path = tuple[str, ...]


def text_of(body: bytes) -> str:
    """The body as text, without white space, a byte order mark or a C string's final
    zero around it.

    Raises:
        UndecodableMessage: it is too large, or not UTF-8.
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
    """Whether the body begins as a JSON object does."""
    return body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def json_of(body: bytes) -> Any:
    """The body as JSON. ``NaN``, ``nan``, ``inf`` and the like, which are no JSON but
    are sent, become None; a name that an object has twice is numbered. A text in it
    that is not UTF-8 spoils only itself.

    Raises:
        UndecodableMessage: it is no JSON, or not UTF-8 and no object.
    """
    try:
        text = text_of(body)
    except UndecodableMessage:
        if len(body) > MAX_BODY_BYTES or not is_object(body):
            raise
        text = text_of(body.decode("utf-8", "replace").encode())
    try:
        try:
            value = _loads(text)
        except ValueError:
            value = _loads(_TEXT_OR_NAN.sub(_text_or_null, text))
        if "\\u" in text:  # half of a surrogate pair, which UTF-8 cannot encode
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
    """The body as a JSON object or array where it is one, else as the text it is.

    Raises:
        UndecodableMessage: it is too large, or not UTF-8.
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


def values_of(document: object) -> Iterator[tuple[Path, object]]:
    """Every value of a document that is no object and no array, with its path, in
    order.

    Raises:
        SchemaMismatch: there are too many.
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
    """The value at a path of a document; None when there is none."""
    for step in path:
        if isinstance(document, dict):
            document = document.get(step)
        elif isinstance(document, list) and step.isdecimal() and step.isascii():
            document = document[int(step)] if int(step) < len(document) else None
        else:
            return None
    return document


def is_unavailable(raw: object) -> bool:
    """Whether it stands for no value."""
    return raw is None or (isinstance(raw, str) and raw.strip().casefold() in _NO_VALUE)


def number_of(raw: object) -> float:
    """A number, which some devices write as text.

    Raises:
        SchemaMismatch: it is not a finite number.
    """
    value = raw
    if isinstance(raw, str) and "_" not in raw:  # which Python allows
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


def state_of(
    raw: object, words: Mapping[str, bool] | None = None, *, inverted: bool = False
) -> bool:
    """True or false, which devices write in many ways.

    Args:
        words: texts that are true or false by themselves.
        inverted: whether any other text stands for the opposite.

    Raises:
        SchemaMismatch: it is neither.
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


#: Reasons why a value is no reading. They are counted, so there are few.
UNKNOWN = "kind unknown"
UNAVAILABLE = "unavailable"
COMPUTED = "computed by a template"
REPEATED = "said in another unit, too"
SETTING = "setting"


class Ignored(NamedTuple):
    """A message that holds no reading, by its nature; messages are counted by the
    reason."""

    reason: str


class DeviceTime(NamedTuple):
    """A time that perhaps names no zone: ``2019-01-01T00:00:00``."""

    text: str


class Meaning(NamedTuple):
    """What a value is.

    Attributes:
        unit: its unit, where the message itself gives it.
        usual: its unit, if nothing gives one.
        part: which of the device's sensors; empty when it has one of the kind.
        inverted: of a state, when the device sends the opposite of the kind.
        stamp: when this value alone was measured (see :class:`Payload`).
        is_guess: whether it follows from a name that its owner chose.
    """

    kind: str
    unit: str | None = None
    usual: str | None = None
    part: str = ""
    inverted: bool = False
    stamp: object = None
    is_guess: bool = False


class Passed(NamedTuple):
    """A value that is no reading, as far as its format knows; counted by the reason.

    Attributes:
        part: which of the device's sensors it is, should the device announce it.
        stamp: when this value alone was measured (see :class:`Payload`).
        detail: counted with its name.
    """

    reason: str = UNKNOWN
    part: str = ""
    stamp: object = None
    detail: str = ""


#: None is a value that describes others: a unit, a time, an address.
Judgement = Meaning | Passed | None


def meanings(
    names_by_kind: Mapping[str, str], *, as_part: bool = False
) -> dict[str, Meaning]:
    """Name of a value → what it is.

    Args:
        names_by_kind: kind, and behind a blank its unit if the format fixes it →
            names, with blanks between.
        as_part: each name is that of one of the device's sensors, too.
    """
    found = {}
    for kind_and_unit, names in names_by_kind.items():
        kind, _, unit = kind_and_unit.partition(" ")
        for name in names.split():
            part = name if as_part else ""
            found[name] = Meaning(kind, unit=unit or None, part=part)
    return found


def joined(*parts: str) -> str:
    """The parts of a sensor's name that are not empty, with slashes between."""
    return "/".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Payload:
    """One message of a device.

    Attributes:
        device: which device, in the levels of its topic: ``kitchen/floor_lamp``.
        document: what it holds: JSON, or the text of a single value.
        judge: what the value at a path is.
        stamp: when it was measured, as the device writes it: RFC 3339 text, epoch
            seconds or milliseconds, or a :class:`DeviceTime`; None when it does not.
        name: what a document is called that is a single value.
        elsewhere: routing key on which a part of the document is published, too →
            its path. What is announced of that is announced of this part.
    """

    device: str
    document: object
    judge: Callable[[Path, object], Judgement]
    stamp: object = None
    name: str = "the body"
    elsewhere: Mapping[str, Path] = field(default_factory=dict)
