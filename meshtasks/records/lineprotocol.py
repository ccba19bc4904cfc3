"""InfluxDB's line protocol, read: metrics as Telegraf and others write them.

The format: https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/.
As InfluxDB does, a backslash is read as itself wherever it escapes nothing. More is
taken than InfluxDB takes: white space around the parts, a sign before a number, tags
without a value (they are none).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from meshtasks.errors import SchemaMismatch, UndecodableMessage
from meshtasks.records.models import Metric
from meshtasks.text import clip

_BLANK = re.compile(r"[ \t]*")
_END = re.compile(r"[ \t\r]*(?:\n|\Z)")
_MEASUREMENT = re.compile(r"(?:\\[, ]|[^, \t\r\n])+")
#: The name of a tag or field, or the value of a tag.
_KEY = re.compile(r"(?:\\[,= ]|[^,= \t\r\n])+")
#: Not to the next quote only: a text may span lines.
_TEXT = re.compile(r'"((?:[^"\\]|\\.)*+)"', re.DOTALL)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_INTEGER = re.compile(r"([-+]?\d{1,20})[iu]")
_BOOLEAN = re.compile(r"[Tt]rue|TRUE|[Ff]alse|FALSE|[tTfF]")
_TIME = re.compile(r"[ \t]+(-?\d{1,20})")

_ESCAPED = re.compile(r"\\([,= ])")
_ESCAPED_IN_MEASUREMENT = re.compile(r"\\([, ])")
_ESCAPED_IN_TEXT = re.compile(r'\\(["\\])')


class Line(NamedTuple):
    """One line of a message; where a text has line breaks, all of its lines.

    Attributes:
        source: exactly as it was written, without the break at its end.
        metric: what it says; None if it cannot be read.
        fault: why not.
    """

    source: bytes
    metric: Metric | None
    fault: str = ""


class _Unreadable(Exception):
    """A line is none; the text says why.

    Args:
        place: where that was noticed.
    """

    def __init__(self, reason: str, place: int) -> None:
        super().__init__(f"the line is not line protocol: {reason}")
        self.place = place


def read_lines(body: bytes) -> list[Line]:
    """The lines of a message, less blank ones and comments.

    A line that cannot be read ends at its line break, whatever quotes it opened; so
    it takes nothing of the next one.

    Args:
        body: line protocol in UTF-8. Times may be of any precision: see
            :mod:`meshtasks.records.timestamps`.

    Raises:
        UndecodableMessage: it is not UTF-8.
        SchemaMismatch: there is no line in it.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        message = (
            f"the body is not UTF-8: byte 0x{body[error.start]:02x} at position "
            f"{error.start}"
        )
        raise UndecodableMessage(message) from error
    found = list(_lines(text))
    if not found:
        message = "the body has no line that is not blank or a comment"
        raise SchemaMismatch(message)
    return found


def _lines(text: str) -> Iterator[Line]:
    start = 0
    while start < len(text):
        start = _past(_BLANK, text, start)
        newline = text.find("\n", start)
        stop = len(text) if newline < 0 else newline
        if not text[start:stop].strip("\r") or text[start] == "#":
            start = stop + 1
            continue
        metric, fault = None, ""
        try:
            metric, end = _metric(text, start)
        except _Unreadable as error:
            if error.place > stop:  # in a later line, by a quote of its own
                error = _Unreadable("a text in quotes does not end", stop)
            end, fault = stop, str(error)
        source = text[start:end].rstrip(" \t\r").encode("utf-8")
        yield Line(source, metric, fault)
        start = end + 1


def _metric(text: str, start: int) -> tuple[Metric, int]:
    """The metric that begins at a place, and where its line ends.

    Raises:
        _Unreadable: there is none.
    """
    name, place = _taken(_MEASUREMENT, text, start, "a measurement")
    tags: dict[str, Any] = {}
    while text[place : place + 1] == ",":
        tag, place = _taken(_KEY, text, place + 1, "the name of a tag")
        place = _after(text, place, "=", f"the tag {clip(tag)}")
        value = _KEY.match(text, place)
        if value is not None:
            tags[_unescaped(tag)] = _unescaped(value[0])
            place = value.end()
    place = _space(text, place, "the fields")
    fields: dict[str, Any] = {}
    while True:
        field, place = _taken(_KEY, text, place, "the name of a field")
        place = _after(text, place, "=", f"the field {clip(field)}")
        fields[_unescaped(field)], place = _value(text, place, field)
        if text[place : place + 1] != ",":
            break
        place += 1
    metric: Metric = {
        "name": _ESCAPED_IN_MEASUREMENT.sub(r"\1", name),
        "fields": fields,
        "tags": tags,
    }
    if time := _TIME.match(text, place):
        metric["timestamp"] = int(time[1])
        place = time.end()
    ended = _END.match(text, place)
    if ended is None:
        raise _unexpected("the end of the line", text, place)
    end = ended.end()
    return metric, end - 1 if text[end - 1 : end] == "\n" else end


def _value(text: str, place: int, field: str) -> tuple[float | bool | str, int]:
    """The value of a field, and where it ends.

    Raises:
        _Unreadable: there is none.
    """
    if found := _TEXT.match(text, place):
        return _ESCAPED_IN_TEXT.sub(r"\1", found[1]), found.end()
    if found := _INTEGER.match(text, place):
        return int(found[1]), found.end()
    if found := _NUMBER.match(text, place):
        return float(found[0]), found.end()
    if found := _BOOLEAN.match(text, place):
        return found[0] in {"t", "T", "true", "True", "TRUE"}, found.end()
    what = f'a number, true, false or a text in quotes for the field "{clip(field)}"'
    raise _unexpected(what, text, place)


def _taken(
    pattern: re.Pattern[str], text: str, place: int, what: str
) -> tuple[str, int]:
    found = pattern.match(text, place)
    if found is None:
        raise _unexpected(what, text, place)
    return found[0], found.end()


def _after(text: str, place: int, sign: str, what: str) -> int:
    if text[place : place + 1] != sign:
        expected = f'"{sign}" after {what}'
        raise _unexpected(expected, text, place)
    return place + 1


def _space(text: str, place: int, what: str) -> int:
    end = _past(_BLANK, text, place)
    if end == place:
        expected = f"a space before {what}"
        raise _unexpected(expected, text, place)
    return end


def _past(pattern: re.Pattern[str], text: str, place: int) -> int:
    found = pattern.match(text, place)
    return found.end() if found else place


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(r"\1", text)


def _unexpected(expected: str, text: str, place: int) -> _Unreadable:
    rest = text[place : place + 200].partition("\n")[0].rstrip("\r")
    got = f'"{clip(rest, 20)}"' if rest.strip() else "the end of the line"
    return _Unreadable(f"expected {expected}, got {got}", place)
