"""Parser of InfluxDB's line protocol, in which Telegraf and others publish metrics.

The format: https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/.
As in InfluxDB, a backslash that escapes nothing is an ordinary character. The parser
accepts more than InfluxDB: additional white space, a ``+`` before a number, and tags
without a value, which it ignores.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from meshtasks.errors import SchemaMismatch, UndecodableMessage
from meshtasks.records.models import Metric
from meshtasks.text import clip

_BLANK = re.compile(r"[ \t]+")
_END = re.compile(r"[ \t\r]*(?:\n|\Z)")
_MEASUREMENT = re.compile(r"(?:\\[, ]|[^, \t\r\n])+")
#: The name of a tag or field, or the value of a tag.
_KEY = re.compile(r"(?:\\[,= ]|[^,= \t\r\n])+")
#: A text with escaped quotes; it may contain line breaks.
_TEXT = re.compile(r'"((?:[^"\\]|\\.)*+)"', re.DOTALL)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_INTEGER = re.compile(r"([-+]?\d{1,20})[iu]")
_BOOLEAN = re.compile(r"[Tt]rue|TRUE|[Ff]alse|FALSE|[tTfF]")
_TIME = re.compile(r"[ \t]+(-?\d{1,20})")

_ESCAPED = re.compile(r"\\([,= ])")
_ESCAPED_IN_MEASUREMENT = re.compile(r"\\([, ])")
_ESCAPED_IN_TEXT = re.compile(r'\\(["\\])')


class Line(NamedTuple):
    """One entry of line protocol. It may span lines if a text has line breaks.

    Attributes:
        source: exact bytes, without the line break at the end.
        metric: the metric; None if the line is invalid.
        fault: reason why the line is invalid, else empty.
    """

    source: bytes
    metric: Metric | None
    fault: str = ""


class _Unreadable(Exception):
    """A line is invalid; ``position`` is where in the text this was detected."""

    def __init__(self, reason: str, position: int) -> None:
        super().__init__(f"the line is neither JSON nor line protocol: {reason}")
        self.position = position


def read_lines(body: bytes) -> list[Line]:
    """The lines of a body, without blank lines and comments.

    An invalid line ends at its first line break, even inside quotes, so that the next
    line is not affected.

    Args:
        body: line protocol in UTF-8. Times may have any precision: see
            :mod:`meshtasks.records.timestamps`.

    Raises:
        UndecodableMessage: the body is not UTF-8.
        SchemaMismatch: the body contains no line.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        message = (
            f"the body is not UTF-8: byte 0x{body[error.start]:02x} at position "
            f"{error.start}"
        )
        raise UndecodableMessage(message) from error
    if found := list(_lines(text)):
        return found
    message = "the body has no line that is not blank or a comment"
    raise SchemaMismatch(message)


def _lines(text: str) -> Iterator[Line]:
    start = 0
    while start < len(text):
        reader = _Reader(text, start)
        reader.skip(_BLANK)
        start = reader.position
        newline = text.find("\n", start)
        stop = len(text) if newline < 0 else newline
        if not text[start:stop].strip("\r") or text[start] == "#":
            start = stop + 1
            continue
        metric, fault = None, ""
        try:
            metric = reader.metric()
            stop = reader.position
        except _Unreadable as error:
            if error.position > stop:  # an unclosed quote extends into later lines
                error = _Unreadable("a text in quotes does not end", stop)
            fault = str(error)
        source = text[start:stop].rstrip(" \t\r").encode("utf-8")
        yield Line(source, metric, fault)
        start = stop + 1


class _Reader:
    """Reads a line; ``position`` is the end of what was read."""

    def __init__(self, text: str, position: int) -> None:
        self._text = text
        self.position = position

    def metric(self) -> Metric:
        """Read the metric of the line.

        Raises:
            _Unreadable: the line is invalid.
        """
        name = self._take(_MEASUREMENT, "a measurement")
        tags: dict[str, Any] = {}
        while self._skip_sign(","):
            tag = self._take(_KEY, "the name of a tag")
            self._equals(f"the tag {clip(tag)}")
            if value := self.skip(_KEY):
                tags[_unescaped(tag)] = _unescaped(value[0])
        if not self.skip(_BLANK):
            raise self._unexpected("a space before the fields")
        fields: dict[str, Any] = {}
        while True:
            field = self._take(_KEY, "the name of a field")
            self._equals(f"the field {clip(field)}")
            fields[_unescaped(field)] = self._value(field)
            if not self._skip_sign(","):
                break
        metric: Metric = {
            "name": _ESCAPED_IN_MEASUREMENT.sub(r"\1", name),
            "fields": fields,
            "tags": tags,
        }
        if time := self.skip(_TIME):
            metric["timestamp"] = int(time[1])
        if not (ended := self.skip(_END)):
            raise self._unexpected("the end of the line")
        self.position -= ended[0].endswith("\n")
        return metric

    def skip(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Read what matches at the position; None if nothing does."""
        if found := pattern.match(self._text, self.position):
            self.position = found.end()
        return found

    def _value(self, field: str) -> float | bool | str:
        if found := self.skip(_TEXT):
            return _ESCAPED_IN_TEXT.sub(r"\1", found[1])
        if found := self.skip(_INTEGER):
            return int(found[1])
        if found := self.skip(_NUMBER):
            return float(found[0])
        if found := self.skip(_BOOLEAN):
            return found[0] in {"t", "T", "true", "True", "TRUE"}
        what = (
            f'a number, true, false or a text in quotes for the field "{clip(field)}"'
        )
        raise self._unexpected(what)

    def _take(self, pattern: re.Pattern[str], what: str) -> str:
        if found := self.skip(pattern):
            return found[0]
        raise self._unexpected(what)

    def _equals(self, what: str) -> None:
        if not self._skip_sign("="):
            expected = f'"=" after {what}'
            raise self._unexpected(expected)

    def _skip_sign(self, sign: str) -> bool:
        is_there = self._text.startswith(sign, self.position)
        self.position += is_there
        return is_there

    def _unexpected(self, expected: str) -> _Unreadable:
        rest = self._text[self.position : self.position + 200].partition("\n")[0]
        rest = rest.rstrip("\r")
        got = f'"{clip(rest, 20)}"' if rest.strip() else "the end of the line"
        return _Unreadable(f"expected {expected}, got {got}", self.position)


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(r"\1", text)
