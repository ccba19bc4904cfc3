"""The time-series store: InfluxDB 2, or another server that has ``/api/v2/write``.

One request per batch. Only 204 is success: it says that the points are stored, while a
login page or a proxy may answer with another 2xx. Faults of the data are 400, 413 and
422 that are about lines: those at fault are found and named, the others are stored. All
other faults are the store's, or of the way to it, and may pass.

Bodies are not compressed: on one machine gzip makes a batch of 9,000 lines three
times slower (27 ms instead of 10 ms).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self
from urllib.parse import urlencode, urlsplit

from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError

from meshtasks.config.environment import Environment
from meshtasks.errors import ConfigError, SinkUnavailable
from meshtasks.flows.refusals import REASON_LIMIT_CHARS, Refusal, message_in, refusal_in
from meshtasks.http import Answer, pool_manager, request
from meshtasks.text import ends
from meshtasks.timing import timed

#: Of the point that ``meshtasks doctor`` stores.
DOCTORS_MEASUREMENT = "meshtasks_doctor"

#: A store that needs longer for one batch is overloaded.
ANSWER_TIMEOUT_SECONDS = 10.0
#: So long readings wait whose points may be put aside instead.
_HASTE_SECONDS = 3.0

_STORED = 204
_OK = 200
_BAD_REQUEST = 400
#: InfluxDB 2's answer to an empty write, once it has found bucket and rights.
_NO_POINTS = "writing requires points"

_WRONG_URL = "MESH_INFLUX_URL, MESH_INFLUX_ORG or MESH_INFLUX_BUCKET is wrong"
_HINTS = {
    400: _WRONG_URL,
    401: "MESH_INFLUX_TOKEN is missing or wrong",
    403: "MESH_INFLUX_TOKEN may not write to MESH_INFLUX_BUCKET",
    404: _WRONG_URL,
}
_NOT_THE_STORE = "is MESH_INFLUX_URL the store itself? It answers a write with 204"
#: Enough to recognise whose page it is.
_PAGE_LIMIT_CHARS = 80


class TimeSeries:
    """Writes points; each process has its own connection.

    Args:
        url: base URL, without ``/api/v2``.
        token: API token; may be empty where none is checked.
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
        query = urlencode({"org": org, "bucket": bucket, "precision": "ms"})
        self._url = f"{url.rstrip('/')}/api/v2/write?{query}"
        self._headers = {
            "Content-Type": "text/plain; charset=utf-8",
            "Accept": "application/json",
            "User-Agent": "meshtasks",
        }
        if token:
            self._headers["Authorization"] = f"Token {token}"
        self._answer_timeout_seconds = answer_timeout_seconds
        self._http = pool_manager(maxsize=1)

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
    def write(self, lines: Sequence[str], *, in_haste: bool = False) -> dict[int, str]:
        """Store points, all in one request unless some are refused.

        The lines that an answer names are left out, and the others are written once
        more, since a store may name some of them only, or store none. Without names the
        batch is halved until the lines at fault are single. Writing a point again
        changes nothing.

        Args:
            lines: line protocol with timestamps in milliseconds, one point each.
            in_haste: do not wait long for an answer: the points can be put aside.

        Returns:
            Index → reason of each line that is refused; all others are stored.

        Raises:
            SinkUnavailable: any of the lines may be stored or not.
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
        """Write nothing, which needs the same place and rights as writing points.

        Raises:
            SinkUnavailable: a write would fail too.
        """
        self._post([])

    def close(self) -> None:
        """Close the connection."""
        self._http.clear()

    def _post(self, lines: Sequence[str], *, in_haste: bool = False) -> Refusal | None:
        """One write; returns the refusal of lines, if there is one.

        Raises SinkUnavailable for a fault that may pass, or of the configuration."""
        body = "\n".join(lines).encode()
        seconds = self._answer_timeout_seconds
        if in_haste:
            seconds = min(seconds, _HASTE_SECONDS)
        try:
            try:
                answer = self._request(body, seconds)
            except ProtocolError:
                # A kept connection that the store closed, as it does when it is
                # restarted: once more, on a new one.
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
            self._url,
            timeout_seconds=timeout_seconds,
            body=body,
            headers=self._headers,
        )

    def _failure(self, answer: Answer) -> SinkUnavailable:
        """An answer that is neither success nor about lines."""
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
    """Whether that is InfluxDB's own answer to an empty write: version 1 says 200."""
    is_influx = any(name.lower() == "x-influxdb-version" for name in answer.headers)
    return message_in(answer.text) == _NO_POINTS or (
        answer.status == _OK and is_influx and not answer.body
    )
