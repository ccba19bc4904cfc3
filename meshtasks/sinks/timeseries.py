"""The time-series store: InfluxDB 2, or whatever else speaks ``/api/v2/write``.

One request per batch. influxdb-client brings the request; what an answer means is
decided here, because the client leaves that to its caller: which faults are of
the data (400, 413, 422: the lines at fault are found and named, the others are
stored), which of the configuration (401, 403, 404 and other 4xx) and which may
pass (no connection, no answer in time, 429, 5xx).

Bodies are not compressed: on one machine gzip makes a batch of 9,000 lines three
times slower (27 ms instead of 10 ms).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Self
from urllib.parse import urlsplit

from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.domain.write_precision import WritePrecision
from influxdb_client.rest import ApiException
from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError

from meshtasks.domain.errors import ConfigError, SinkUnavailable
from meshtasks.domain.text import clip
from meshtasks.environment import Environment
from meshtasks.sinks.http import retry_after_seconds
from meshtasks.sinks.timing import timed

CONNECT_TIMEOUT_SECONDS = 3.0
#: A store that needs longer for one batch is overloaded.
ANSWER_TIMEOUT_SECONDS = 10.0

_REASON_LIMIT_CHARS = 300

#: Statuses that may be about single lines.
_OF_DATA = frozenset({400, 413, 422})
#: A 400 that is about the place of the request, not its lines.
_WRONG_PLACE = re.compile("unsupported path|missing route|database is required")
#: InfluxDB tells how many lines of the request it left out.
_DROPPED = re.compile(r"\bdropped=(\d+)")

_WRONG_URL = "MESH_INFLUX_URL, MESH_INFLUX_ORG or MESH_INFLUX_BUCKET is wrong"
_HINTS = {
    400: _WRONG_URL,
    401: "MESH_INFLUX_TOKEN is missing or wrong",
    403: "MESH_INFLUX_TOKEN may not write to MESH_INFLUX_BUCKET",
    404: _WRONG_URL,
}


class _LinesRefusedError(Exception):
    """The store will not take these lines, now or later.

    Args:
        reason: what it said.
        dropped: how many of them it did not take, if it said so.
    """

    def __init__(self, reason: str, dropped: int | None) -> None:
        super().__init__(reason)
        self.dropped = dropped


class TimeSeries:
    """Writes points; each process has its own connection.

    Args:
        url: base URL, without ``/api/v2``.
        token: API token; may be empty where none is checked.
        org: organisation.
        bucket: bucket; it must exist.
        answer_timeout_seconds: longest wait for the answer to one write.
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
        self._host = urlsplit(url).netloc.rpartition("@")[2]
        self._org, self._bucket = org, bucket
        timeouts_ms = CONNECT_TIMEOUT_SECONDS * 1000, answer_timeout_seconds * 1000
        self._client = InfluxDBClient(url, token, timeout=timeouts_ms, org=org)
        self._api = self._client.write_api(write_options=SYNCHRONOUS)

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

    @timed("timeseries")
    def write(self, lines: Sequence[str]) -> dict[int, str]:
        """Store points, all in one request unless some are refused.

        A refused request is halved until the lines at fault stand alone. Writing
        a point again changes nothing, so halves may repeat what was stored.

        Args:
            lines: line protocol with timestamps in milliseconds, one point each.

        Returns:
            Index → reason of each line that is refused for good. All others are
            stored.

        Raises:
            SinkUnavailable: any of the lines may be stored or not.
        """
        rejected: dict[int, str] = {}
        ahead = [(0, len(lines))] if lines else []
        while ahead:
            start, end = ahead.pop()
            try:
                self._post("\n".join(lines[start:end]).encode())
            except _LinesRefusedError as refusal:
                if refusal.dropped == end - start or end - start == 1:
                    rejected |= dict.fromkeys(range(start, end), str(refusal))
                else:
                    middle = (start + end) // 2
                    ahead += [(middle, end), (start, middle)]
        return rejected

    def probe(self) -> None:
        """Write nothing, which needs the same place and rights as writing points.

        Raises:
            SinkUnavailable: a write would fail too.
        """
        try:
            self._post(b"")
        except _LinesRefusedError:
            return  # InfluxDB 2 says that no lines were sent: it is there

    def close(self) -> None:
        """Close the connection."""
        self._client.close()  # type: ignore[no-untyped-call]

    def _post(self, body: bytes) -> None:
        """One write.

        Raises:
            SinkUnavailable: a fault that may pass, or of the configuration.
            _LinesRefusedError: a fault of the data.
        """
        try:
            try:
                self._request(body)
            except ProtocolError:
                # A kept connection that the store closed, as it does when it is
                # restarted: once more, on a new one.
                self._request(body)
        except ApiException as error:
            raise self._meaning(error) from error
        except ReadTimeoutError as error:
            fault = self._unavailable("did not answer in time")
            raise fault from error
        except (HTTPError, UnicodeDecodeError) as error:
            fault = self._unavailable(f"cannot be used: {error}")
            raise fault from error

    def _request(self, body: bytes) -> None:
        precision: Any = WritePrecision.MS  # a str, which the client's types deny
        self._api.write(self._bucket, self._org, body, write_precision=precision)

    def _meaning(self, error: ApiException) -> SinkUnavailable | _LinesRefusedError:
        status = error.status
        said = _said(error.body or error.reason or "")
        answer = f"answered {status}: {clip(said, _REASON_LIMIT_CHARS)}"
        if status in _OF_DATA and not _WRONG_PLACE.search(said):
            found = _DROPPED.search(said)
            dropped = int(found[1]) if found else None
            return _LinesRefusedError(f"the time-series store {answer}", dropped)
        if hint := _HINTS.get(status):
            answer = f"{answer}; {hint}"
        wait = error.headers.get("Retry-After") if error.headers else None
        return self._unavailable(answer, retry_after_seconds(wait))

    def _unavailable(
        self, what: str, retry_after_seconds: float | None = None
    ) -> SinkUnavailable:
        message = f"the time-series store at {self._host} {what}"
        return SinkUnavailable("timeseries", message, retry_after_seconds)


def _said(body: str) -> str:
    """The sentence in an answer: v1's ``error``, v2's ``message``, or the text."""
    try:
        answer = json.loads(body)
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        body = str(answer.get("message") or answer.get("error") or body)
    return " ".join(body.split())
