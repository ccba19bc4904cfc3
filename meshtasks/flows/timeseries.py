"""Client of the time-series store: InfluxDB 2, or a server that has ``/api/v2/write``.

A batch is one request. Only 204 is success: it means that the points are stored, while
a login page or a proxy may respond with another 2xx. The statuses 400, 413 and 422 mean
bad data if the response is about lines: the bad lines are determined, and the others
are stored. Any other response means that the store is unavailable.

Bodies are not compressed: between processes of one machine, gzip makes a batch of 9,000
lines three times slower (27 ms instead of 10 ms).

The response tells which lines are rejected. Text is matched only at fixed positions of
the known formats, because names in it come from devices, and a measurement may have any
name. The formats:

- InfluxDB 1 and 2: ``unable to parse '<line>': <why>`` for each line, and
  ``partial write: <why> dropped=<number>`` (tsdb/shard.go, PartialWriteError), after
  ``failure writing points to database:`` in version 2. It names one of several errors;
  the number counts all lines that were dropped with it in its shard group. The other
  lines are stored.
- InfluxDB 3: a list of line numbers.
- VictoriaMetrics: ``incorrect influx line "<the rest of the body>": <why>``, after the
  description of the request.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode, urlsplit

from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError

from meshtasks.config.environment import Environment
from meshtasks.errors import ConfigError, SinkUnavailable
from meshtasks.http import Answer, pool_manager, request
from meshtasks.text import ends, json_in
from meshtasks.timing import timing

#: Measurement of the point that ``meshtasks doctor`` stores.
DOCTORS_MEASUREMENT = "meshtasks_doctor"

#: Timeout of a write. A store that needs longer for one batch is overloaded.
ANSWER_TIMEOUT_SECONDS = 10.0
#: Timeout of a write if its points can be put aside.
_HASTE_SECONDS = 3.0

_STORED = 204
_OK = 200
_BAD_REQUEST = 400
#: InfluxDB 2's response to an empty write, if bucket and permissions are right.
_NO_POINTS = "writing requires points"

_WRONG_URL = "MESH_INFLUX_URL, MESH_INFLUX_ORG or MESH_INFLUX_BUCKET is wrong"
_HINTS = {
    400: _WRONG_URL,
    401: "MESH_INFLUX_TOKEN is missing or wrong",
    403: "MESH_INFLUX_TOKEN may not write to MESH_INFLUX_BUCKET",
    404: _WRONG_URL,
}
_NOT_THE_STORE = "is MESH_INFLUX_URL the store itself? It answers a write with 204"
#: Longest quotation of a page; enough to recognise its origin.
_PAGE_LIMIT_CHARS = 80


class TimeSeries:
    """Writes points. Each process needs an instance of its own.

    Args:
        url: base URL, without ``/api/v2``.
        token: API token; may be empty if the store checks none.
        org: name of the organisation.
        bucket: name of the bucket, which must exist.
        answer_timeout_seconds: timeout of one write.
    """

    def __init__(
        self,
        url: str,
        token: str,
        org: str,
        bucket: str,
        *,
        answer_timeout_seconds: float = ANSWER_TIMEOUT_SECONDS,
    ) -> None:
        parts = urlsplit(url)
        self._host = parts.netloc.rpartition("@")[2]
        query = urlencode({"org": org, "bucket": bucket, "precision": "ms"})
        self._path = f"{parts.path.rstrip('/')}/api/v2/write?{query}"
        self._headers = {
            "Content-Type": "text/plain; charset=utf-8",
            "Accept": "application/json",
            "User-Agent": "meshtasks",
        }
        if token:
            self._headers["Authorization"] = f"Token {token}"
        self._answer_timeout_seconds = answer_timeout_seconds
        # the pool of the host; to look it up by URL takes a fifth of a request
        self._http = pool_manager(maxsize=1).connection_from_url(url)

    @classmethod
    def from_environment(cls, env: Environment) -> Self:
        """The store that ``MESH_INFLUX_*`` names.

        Raises:
            ConfigError: ``MESH_INFLUX_URL`` is not an HTTP URL.
        """
        parts = urlsplit(env.influx_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            expected = "expected a URL such as http://127.0.0.1:8086"
            raise ConfigError("environment", "MESH_INFLUX_URL", expected)
        token = env.influx_token.get_secret_value()
        return cls(env.influx_url, token, env.influx_org, env.influx_bucket)

    @timing("timeseries")
    def write(self, lines: Sequence[str], *, in_haste: bool = False) -> dict[int, str]:
        """Store points, in one request unless the store rejects some.

        If the response names bad lines, the others are written again without them: a
        store may name only some bad lines, or may have stored none. If it names none,
        the batch is halved until the bad lines are alone. Writing a point again changes
        nothing.

        Args:
            lines: line protocol with timestamps in milliseconds, one point each.
            in_haste: whether to use a short timeout, because the points can be put
                aside.

        Returns:
            The reason of each rejected line, by index; all others are stored.

        Raises:
            SinkUnavailable: the store is unavailable; some lines may be stored.
        """
        rejected: dict[int, str] = {}
        ahead = [list(range(len(lines)))]
        while ahead:
            batch = ahead.pop()
            if not batch:
                continue
            refusal = self._post([lines[index] for index in batch], in_haste=in_haste)
            if refusal is None:
                continue
            named = refusal.selected
            if not named and len(batch) == 1:
                named = {0: refusal.reason}
            if named:
                store = "the time-series store "
                rejected |= {batch[index]: store + named[index] for index in named}
                ahead.append([one for n, one in enumerate(batch) if n not in named])
            else:
                middle = len(batch) // 2
                ahead += [batch[middle:], batch[:middle]]
        return rejected

    def probe(self) -> None:
        """Write no points, which needs the same bucket and permissions as a write.

        Raises:
            SinkUnavailable: a write would fail, too.
        """
        self._post([])

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def _post(self, lines: Sequence[str], *, in_haste: bool = False) -> Refusal | None:
        """Send one write. Return the refusal if the store rejects lines, else None.

        Raises:
            SinkUnavailable: the store is unavailable, or its settings are wrong.
        """
        body = "\n".join(lines).encode()
        seconds = self._answer_timeout_seconds
        if in_haste:
            seconds = min(seconds, _HASTE_SECONDS)
        try:
            try:
                answer = self._request(body, seconds)
            except ProtocolError:
                # The store closed the idle connection, for example at a restart: try
                # once more, on a new one.
                answer = self._request(body, seconds)
        except ReadTimeoutError as error:
            fault = self._unavailable("did not answer in time")
            raise fault from error
        except HTTPError as error:
            fault = self._unavailable(f"cannot be used: {error}")
            raise fault from error
        if answer.status == _STORED:
            return None
        if answer.whole and not answer.is_page:
            refusal = refusal_in(answer.status, answer.text, lines)
            if refusal is not None:
                return refusal
            if not lines and _is_of_no_points(answer):
                return None
        raise self._failure(answer)

    def _request(self, body: bytes, timeout_seconds: float) -> Answer:
        return request(
            self._http,
            "POST",
            self._path,
            timeout_seconds=timeout_seconds,
            body=body,
            headers=self._headers,
        )

    def _failure(self, answer: Answer) -> SinkUnavailable:
        """The error for a response that is neither a success nor about lines."""
        what = f"answered {answer.status}"
        if answer.is_page:
            page = " ".join(answer.text.split())
            what = f"{what} with a page for people: {ends(page, _PAGE_LIMIT_CHARS)}"
        elif answer.body:
            what = f"{what}: {ends(message_in(answer.text), REASON_LIMIT_CHARS)}"
        is_other = answer.status < _BAD_REQUEST
        if hint := _NOT_THE_STORE if is_other else _HINTS.get(answer.status):
            what = f"{what}; {hint}"
        return self._unavailable(what, answer.retry_after_seconds)

    def _unavailable(
        self, what: str, retry_after_seconds: float | None = None
    ) -> SinkUnavailable:
        message = f"the time-series store at {self._host} {what}"
        return SinkUnavailable("timeseries", message, retry_after_seconds)


def _is_of_no_points(answer: Answer) -> bool:
    """Whether this is InfluxDB's response to an empty write (200 from version 1)."""
    is_influx = any(name.lower() == "x-influxdb-version" for name in answer.headers)
    return message_in(answer.text) == _NO_POINTS or (
        answer.status == _OK and is_influx and not answer.body
    )


REASON_LIMIT_CHARS = 400

_TOO_LARGE = 413
_UNPROCESSABLE = 422

#: Prefixes of a message, with which a server names its components.
_PREFIX = r"(?:[a-z ]{1,60}: ){0,3}?"
#: Beginning of a message about lines.
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

#: A line up to its fields: measurement and tags, with escapes.
_SERIES = re.compile(r"(?P<measurement>(?:\\.|[^\\, ])+)(?:,(?:\\.|[^\\ ])*)? ")
_FIELD = re.compile(
    r'(?P<name>(?:\\.|[^\\,= ])+)=(?P<value>"(?:\\.|[^\\"])*"|[^, ]*)(?:,|(?= )|$)',
    re.DOTALL,
)
_ESCAPED = re.compile(r"\\([,= ])")
#: InfluxDB keeps the type of a field per shard group, by default a week from Monday.
_WEEK_DAYS = 7


class Refusal(NamedTuple):
    """The store rejects some lines, and would reject them again.

    Attributes:
        reason: message of the store, truncated.
        selected: reasons of the bad lines, by index; empty if these are unknown.
    """

    reason: str
    selected: dict[int, str]


def refusal_in(status: int, body: str, lines: Sequence[str]) -> Refusal | None:
    """Parse the response to a write. Return None if it is not about lines.

    Args:
        status: status of the response.
        body: text of the response.
        lines: lines that were sent.
    """
    text = message_in(body)
    reason = ends(f"answered {status}: {' '.join(text.split())}", REASON_LIMIT_CHARS)
    if status == _TOO_LARGE:
        return Refusal(reason, {})
    if status not in {_BAD_REQUEST, _UNPROCESSABLE} or not _OF_LINES.match(text):
        return None
    selected = (
        _numbered(json_in(body), lines, status)
        or _unparsable(text, lines, status)
        or _dropped(text, lines, reason)
    )
    return Refusal(reason, selected)


def message_in(body: str) -> str:
    """The message in a response: ``message`` of version 2, ``error`` of version 1, or
    the text."""
    content = json_in(body)
    if isinstance(content, dict):
        for name in ("message", "error"):
            if isinstance(text := content.get(name), str) and text:
                return text
    return body.strip()


def _numbered(content: Any, lines: Sequence[str], status: int) -> dict[int, str]:
    """Bad lines of InfluxDB 3, which gives line numbers, from 1."""
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
    """Bad lines of InfluxDB 1 and 2, which quote each line that they cannot parse."""
    quoted = re.split(r"(?:\A|(?<=\n)|(?<=partial write: ))unable to parse '", text)[1:]
    by_line: dict[str, list[int]] = {}
    for index, line in enumerate(lines):
        by_line.setdefault(line, []).append(index)
    found: dict[int, str] = {}
    for part in quoted:
        # possible ends of the quoted line, which may have quotes itself
        candidates = (part[: end.start()] for end in re.finditer("': ", part))
        bad = next((one for one in candidates if one in by_line), None)
        if bad is None:
            return {}
        why = ends(f"unable to parse '{part.strip()}", REASON_LIMIT_CHARS)
        found |= dict.fromkeys(by_line[bad], f"answered {status}: {why}")
    return found


def _dropped(text: str, lines: Sequence[str], reason: str) -> dict[int, str]:
    """The dropped lines of a partial write, if exactly as many match its message."""
    partial = _PARTIAL.fullmatch(text)
    if partial is None:
        return {}
    why, number = partial["why"], int(partial["dropped"])
    if at_fault := _CONFLICT.fullmatch(why) or _INVALID_FIELD.fullmatch(why):
        parts = at_fault.groupdict()
        of = parts["measurement"], parts["field"], parts.get("type")
        found = [index for index, line in enumerate(lines) if _has(line, *of)]
        held = parts.get("held")
        reasons = [
            f"{reason}; {_until(held, lines[index])}" if held else reason
            for index in found
        ]
    elif _TOO_OLD.fullmatch(why):
        found = _oldest(lines, number)
        too_old = f"{reason}; its time is before the bucket's retention"
        reasons = [too_old] * len(found)
    else:
        found, reasons = [], []
    if len(found) != number:
        return dict.fromkeys(range(number), reason) if number == len(lines) else {}
    return dict(zip(found, reasons, strict=True))


def _has(line: str, measurement: str, field: str, kind: str | None) -> bool:
    """Whether a line has a field of a measurement, with a value of a type."""
    start = _SERIES.match(line)
    if start is None or _ESCAPED.sub(r"\1", start["measurement"]) != measurement:
        return False
    for found in _FIELD.finditer(line, start.end()):
        if _ESCAPED.sub(r"\1", found["name"]) == field:
            return kind is None or _type(found["value"]) == kind
    return False


def _type(value: str) -> str:
    """InfluxDB's name for the type of a value in line protocol."""
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
    """Indexes of the oldest lines; empty if a line has no time, or if they are not
    unique."""
    times = [(_time_ms(line), index) for index, line in enumerate(lines)]
    known = sorted((time, index) for time, index in times if time is not None)
    if len(known) < len(lines) or not 0 < number <= len(lines):
        return []
    if number < len(known) and known[number - 1][0] == known[number][0]:
        return []
    return [index for _, index in known[:number]]


def _until(held: str, line: str) -> str:
    """A text about the type that the store keeps, and for how long."""
    kept = f"the store keeps one type a field and shard group, here {held}"
    if (time_ms := _time_ms(line)) is None:
        return kept
    try:
        day = datetime.fromtimestamp(time_ms / 1000, UTC).date()
        monday = day + timedelta(days=_WEEK_DAYS - day.weekday())
    except (ValueError, OverflowError, OSError):
        return kept
    return f"{kept} until {monday} (if its shard groups are weeks, as by default)"
