"""Which lines a time-series store refused, from its answer; pure.

Texts decide only where they stand in a fixed place of a structured answer. The names
inside them come from devices, and a measurement may have any name.

Formats, as the servers write them:

- InfluxDB 1 and 2: ``unable to parse '<line>': <why>``, one for each line, and
  ``partial write: <why> dropped=<number>`` (tsdb/shard.go, PartialWriteError), after
  ``failure writing points to database:`` in version 2. Of several things that are
  wrong it names one, and the number counts all that fell with it in its shard group.
  What it does not name is stored.
- InfluxDB 3: a list of lines by number.
- VictoriaMetrics: ``incorrect influx line "<from there on>": <why>``, after the
  request it is about.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from meshtasks.text import ends

REASON_LIMIT_CHARS = 400

_BAD_REQUEST = 400
_TOO_LARGE = 413
_UNPROCESSABLE = 422

#: What a server may put before it: the name of one of its parts.
_PREFIX = r"(?:[a-z ]{1,60}: ){0,3}?"
#: How an answer begins that is about lines.
_OF_LINES = re.compile(
    rf"{_PREFIX}"
    r"(?:partial write\b|unable to parse '|field type conflict: |parsing failed\b"
    r"|parsing for line protocol failed\b|failed to parse line protocol\b)"
    r'|remoteAddr: "[^"]*"; (?:X-Forwarded-For: "[^"]*"; )?requestURI: \S+; '
    r"(?:incorrect influx line |too big request)"
)
_PARTIAL = re.compile(
    rf"{_PREFIX}partial write: (?P<why>.*)"
    r" dropped=(?P<dropped>\d+)(?: for database: \S+)?(?: for retention policy: .*)?",
    re.DOTALL,
)
_CONFLICT = re.compile(
    r'field type conflict: input field "(?P<field>.*)" on measurement '
    r'"(?P<measurement>.*)" is type (?P<type>\w+), '
    r"already exists as type (?P<held>\w+)",
    re.DOTALL,
)
_INVALID_FIELD = re.compile(
    r'invalid field name: input field "(?P<field>.*)" on measurement '
    r'"(?P<measurement>.*)" is invalid',
    re.DOTALL,
)
_TOO_OLD = re.compile(
    r"points beyond retention policy"
    r"|dropped \d+ points outside retention policy of duration .*Lower Bound at \S+",
    re.DOTALL,
)

#: A line up to its fields: name and tags, with escapes.
_SERIES = re.compile(r"(?P<measurement>(?:\\.|[^\\, ])+)(?:,(?:\\.|[^\\ ])*)? ")
_FIELD = re.compile(
    r'(?P<name>(?:\\.|[^\\,= ])+)=(?P<value>"(?:\\.|[^\\"])*"|[^, ]*)(?:,|(?= )|$)',
    re.DOTALL,
)
_ESCAPED = re.compile(r"\\([,= ])")
#: InfluxDB keeps the type of a field for a shard group, by default a week from Monday.
_WEEK_DAYS = 7


class Refusal(NamedTuple):
    """The store did not take some lines, and never will.

    Attributes:
        reason: its message, shortened.
        selected: index → reason of the lines at fault; empty if these are not known.
    """

    reason: str
    selected: dict[int, str]


def refusal_in(status: int, body: str, lines: Sequence[str]) -> Refusal | None:
    """The refusal of the sent lines in an answer; None if it is not about them."""
    text = message_in(body)
    reason = ends(f"answered {status}: {' '.join(text.split())}", REASON_LIMIT_CHARS)
    if status == _TOO_LARGE:
        return Refusal(reason, {})
    if status not in {_BAD_REQUEST, _UNPROCESSABLE} or not _OF_LINES.match(text):
        return None
    selected = (
        _numbered(_json(body), lines, status)
        or _unparsable(text, lines, status)
        or _dropped(text, lines, reason)
    )
    return Refusal(reason, selected)


def message_in(body: str) -> str:
    """The message in an answer: v1's ``error``, v2's ``message``, or the text."""
    content = _json(body)
    if isinstance(content, dict):
        for name in ("message", "error"):
            if isinstance(text := content.get(name), str) and text:
                return text
    return body.strip()


def _json(body: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _numbered(content: Any, lines: Sequence[str], status: int) -> dict[int, str]:
    """InfluxDB 3 gives the lines' numbers, from 1."""
    found: dict[int, str] = {}
    data = content.get("data") if isinstance(content, dict) else None
    for entry in data if isinstance(data, list) else ():
        number = entry.get("line_number") if isinstance(entry, dict) else None
        if not isinstance(number, int) or not 0 < number <= len(lines):
            return {}
        why = ends(str(entry.get("error_message")), REASON_LIMIT_CHARS)
        found[number - 1] = f"answered {status}: {why}"
    return found


def _unparsable(text: str, lines: Sequence[str], status: int) -> dict[int, str]:
    """InfluxDB 1 and 2 quote each line that they cannot parse."""
    quoted = re.split(r"(?:\A|(?<=\n)|(?<=partial write: ))unable to parse '", text)[1:]
    by_line: dict[str, list[int]] = {}
    for index, line in enumerate(lines):
        by_line.setdefault(line, []).append(index)
    found: dict[int, str] = {}
    for part in quoted:
        candidates = (part[:end] for end in _ends_of_quotes(part))
        bad = next((one for one in candidates if one in by_line), None)
        if bad is None:
            return {}
        why = ends(f"unable to parse '{part.strip()}", REASON_LIMIT_CHARS)
        found |= dict.fromkeys(by_line[bad], f"answered {status}: {why}")
    return found


def _ends_of_quotes(text: str) -> Iterator[int]:
    """Where a quoted line may end; it may hold quotes itself."""
    end = text.find("': ")
    while end >= 0:
        yield end
        end = text.find("': ", end + 1)


def _dropped(text: str, lines: Sequence[str], reason: str) -> dict[int, str]:
    """The dropped lines of a partial write, if just as many fit its message."""
    partial = _PARTIAL.fullmatch(text)
    if partial is None:
        return {}
    why, number = partial["why"], int(partial["dropped"])
    if conflict := _CONFLICT.fullmatch(why):
        found = [
            index
            for index, line in enumerate(lines)
            if _has(line, conflict["measurement"], conflict["field"], conflict["type"])
        ]
        reasons = [
            f"{reason}; {_until(conflict['held'], lines[index])}" for index in found
        ]
    elif invalid := _INVALID_FIELD.fullmatch(why):
        measurement, field = invalid["measurement"], invalid["field"]
        found = [
            index
            for index, line in enumerate(lines)
            if _has(line, measurement, field, None)
        ]
        reasons = [reason] * len(found)
    elif _TOO_OLD.fullmatch(why):
        found = _oldest(lines, number)
        reasons = [
            f"{reason}; its time is before the bucket's retention" for _ in found
        ]
    else:
        found, reasons = [], []
    if len(found) != number:
        return dict.fromkeys(range(number), reason) if number == len(lines) else {}
    return dict(zip(found, reasons, strict=True))


def _has(line: str, measurement: str, field: str, kind: str | None) -> bool:
    """Whether a line has this field in this measurement, with a value of this type."""
    start = _SERIES.match(line)
    if start is None or _ESCAPED.sub(r"\1", start["measurement"]) != measurement:
        return False
    for found in _FIELD.finditer(line, start.end()):
        if _ESCAPED.sub(r"\1", found["name"]) == field:
            return kind is None or _type(found["value"]) == kind
    return False


def _type(value: str) -> str:
    """InfluxDB's word for the type of a value in line protocol."""
    if value.startswith('"'):
        return "string"
    if value.lower() in {"t", "f", "true", "false"}:
        return "boolean"
    return {"i": "integer", "u": "unsigned"}.get(value[-1:], "float")


def _time_ms(line: str) -> int | None:
    try:
        return int(line.rpartition(" ")[2])
    except ValueError:
        return None


def _oldest(lines: Sequence[str], number: int) -> list[int]:
    """The oldest lines, if it is clear which these are."""
    times = [(_time_ms(line), index) for index, line in enumerate(lines)]
    known = sorted((time, index) for time, index in times if time is not None)
    if len(known) < len(lines) or not 0 < number <= len(lines):
        return []
    if number < len(known) and known[number - 1][0] == known[number][0]:
        return []
    return [index for _, index in known[:number]]


def _until(held: str, line: str) -> str:
    """Which type the store keeps, and for how long."""
    kept = f"the store keeps one type a field and shard group, here {held}"
    if (time_ms := _time_ms(line)) is None:
        return kept
    try:
        day = datetime.fromtimestamp(time_ms / 1000, UTC).date()
        monday = day + timedelta(days=_WEEK_DAYS - day.weekday())
    except (ValueError, OverflowError, OSError):
        return kept
    return f"{kept} until {monday} (if its shard groups are weeks, as by default)"
