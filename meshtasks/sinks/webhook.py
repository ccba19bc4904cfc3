"""Webhooks of n8n, and of whatever else takes JSON over HTTP.

Only what config/workflows.yaml names is ever called: a URL holds nothing that comes
from a record, redirects are not followed, and no proxy is taken from the
environment.

The circuit ``webhook`` is n8n's, for all its workflows together: it opens when n8n
itself gives no sign of life, and then the queues rest until it does. What only one
webhook suffers from (it is slow, it fails, it asks for a pause) is a matter of the
records that start it; these are retried and all others go on. So are the records
for any other host, since n8n's workflows need not wait for that.

A webhook that is slow, not to be reached or asks for it is not called for a while
(each process has its own mind about that), so that the others need not wait for it
again and again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import NamedTuple, Self
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    ReadTimeoutError,
)

from meshtasks.domain.errors import SinkRejected, SinkUnavailable, Transient
from meshtasks.domain.pauses import Pauses
from meshtasks.domain.text import clip
from meshtasks.domain.workflows import Webhook, Workflow
from meshtasks.settings import Settings
from meshtasks.sinks.http import retry_after_seconds
from meshtasks.sinks.timing import timing

SINK = "webhook"

CONNECT_TIMEOUT_SECONDS = 3.0
PROBE_TIMEOUT_SECONDS = 3.0

_REASON_LIMIT_CHARS = 500
_ANSWER_LIMIT_BYTES = 64 << 10

#: Answers 503 until the database is migrated; older versions do not know it, but
#: any answer of n8n's own will do.
_HEALTH_PATH = "/healthz/readiness"
#: What a proxy says in place of a server that it does not reach.
_NOBODY_THERE = frozenset({502, 503, 504})
#: With status 200, to every request, while it migrates its database.
_STARTING = "n8n is starting up"

_TOO_MANY_REQUESTS = 429
_UNAVAILABLE = 503
#: May pass, like every 5xx: request timeout, too early.
_MAY_PASS = frozenset({408, 425})
#: May be about single records of a batch: bad request, too large, unprocessable.
_OF_DATA = frozenset({400, 413, 422})


class WebhookBusy(Transient):
    """A webhook is too slow or asks for a pause, and is left alone for a while.

    Args:
        retry_after_seconds: how long.
        tried: false if it was left alone this time.
    """

    def __init__(
        self,
        message: str,
        retry_after_seconds: float | None = None,
        *,
        tried: bool = True,
    ) -> None:
        super().__init__(message, retry_after_seconds)
        self.tried = tried


class WebhookRefused(SinkRejected):
    """A webhook refused a request.

    Args:
        of_data: it may be about some of the records in it only.
    """

    def __init__(self, message: str, *, of_data: bool) -> None:
        super().__init__(message)
        self.of_data = of_data


class _Answer(NamedTuple):
    status: int
    said: str
    retry_after_seconds: float | None


class Webhooks:
    """Calls webhooks; each process has its own connections.

    Args:
        n8n_url: base URL of n8n.
        secrets: values of authentication headers, by name.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        n8n_url: str,
        secrets: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._n8n_url = n8n_url.rstrip("/")
        self._secrets = secrets
        self._clock = clock
        self._pauses = Pauses()
        self._http = urllib3.PoolManager(maxsize=1)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The webhooks of config/workflows.yaml, with their secrets."""
        secrets = {
            name: secret.get_secret_value()
            for name, secret in settings.env.secrets.items()
        }
        return cls(settings.env.n8n_url, secrets)

    def is_at_n8n(self, webhook: Webhook) -> bool:
        """Whether the webhook needs n8n, and so the circuit."""
        return webhook.is_path or _origin(webhook.url) == _origin(self._n8n_url)

    def call(self, workflow: Workflow, body: bytes, headers: Mapping[str, str]) -> None:
        """Make one request; return once it is accepted with a 2xx.

        Raises:
            WebhookRefused: it was refused for good: a 4xx or a redirect.
            WebhookBusy: no answer in time, 429 or 503; or it is left alone since
                the last of these. n8n itself is there.
            Transient: 408, 425 or another 5xx; n8n itself is there.
            SinkUnavailable: n8n gives no sign of life.
        """
        name, began = workflow.name, self._clock()
        if pause := self._pauses.of(name, began):
            raise WebhookBusy(pause.reason, pause.until - began, tried=False)
        try:
            self._call(workflow, body, headers)
        except WebhookBusy as error:
            now = self._clock()
            seconds = self._pauses.begin(
                name,
                str(error),
                now,
                lasted_seconds=now - began,
                asked_seconds=error.retry_after_seconds,
            )
            raise WebhookBusy(str(error), seconds) from error
        self._pauses.end(name)

    def _call(
        self, workflow: Workflow, body: bytes, headers: Mapping[str, str]
    ) -> None:
        """One request that is made; raises what :meth:`call` raises."""
        with timing(SINK) as call:
            call.concerns_sink = self.is_at_n8n(workflow.webhook)
            self._call_one(workflow, body, headers)

    def _call_one(
        self, workflow: Workflow, body: bytes, headers: Mapping[str, str]
    ) -> None:
        webhook = workflow.webhook
        url = self._n8n_url + webhook.url if webhook.is_path else webhook.url
        at = f'workflow "{workflow.name}" at {urlsplit(url).netloc}'
        own = {"Content-Type": "application/json", "User-Agent": "meshtasks"}
        if webhook.auth:
            own[webhook.auth.header] = self._secrets[webhook.auth.secret]
        try:
            answer = self._request(
                webhook.method, url, webhook.timeout_seconds, body, {**headers, **own}
            )
        except (NewConnectionError, ConnectTimeoutError) as error:
            if self.is_at_n8n(webhook):
                raise self._down(str(error)) from error
            message = f"{at} cannot be reached: {error}"
            raise WebhookBusy(message) from error
        except HTTPError as error:
            self._require_n8n(webhook)
            if isinstance(error, ReadTimeoutError):
                message = f"{at} did not answer within {webhook.timeout_seconds:g} s"
                raise WebhookBusy(message) from error
            message = f"{at} cannot be used: {error}"
            raise Transient(message) from error
        if answer.status in _NOBODY_THERE or answer.said.startswith(_STARTING):
            self._require_n8n(webhook)
        self._judge(at, answer)

    def probe(self) -> None:
        """Ask n8n for a sign of life: any answer that is its own.

        Raises:
            SinkUnavailable: it gave none.
        """
        url = self._n8n_url + _HEALTH_PATH
        try:
            answer = self._request("GET", url, PROBE_TIMEOUT_SECONDS)
        except HTTPError as error:
            raise self._down(str(error)) from error
        if answer.status in _NOBODY_THERE:
            fault = f"its health check answered {answer.status}"
            raise self._down(fault, answer.retry_after_seconds)
        if answer.said.startswith(_STARTING):
            raise self._down("it is starting up")

    def close(self) -> None:
        """Close the connections."""
        self._http.clear()

    def _require_n8n(self, webhook: Webhook) -> None:
        """After a fault: see whether it is n8n's as a whole."""
        if self.is_at_n8n(webhook):
            self.probe()

    def _down(
        self, fault: str, retry_after_seconds: float | None = None
    ) -> SinkUnavailable:
        message = f"n8n at {urlsplit(self._n8n_url).netloc} is not there: {fault}"
        return SinkUnavailable(SINK, message, retry_after_seconds)

    def _judge(self, at: str, answer: _Answer) -> None:
        """What the answer of a webhook means, of a host that is there."""
        status, said, wait = answer
        text = f"{at} answered {status}: {self._redacted(said)}"
        match status // 100:
            case 2 if not said.startswith(_STARTING):
                return
            case 2:
                raise WebhookBusy(text)
            case 3:
                text = f"{text} (redirects are not followed: correct the URL)"
                raise WebhookRefused(text, of_data=False)
            case _ if status in {_TOO_MANY_REQUESTS, _UNAVAILABLE}:
                raise WebhookBusy(text, wait)
            case 5:
                raise Transient(text, wait)
            case _ if status in _MAY_PASS:
                raise Transient(text, wait)
            case _:
                raise WebhookRefused(text, of_data=status in _OF_DATA)

    def _redacted(self, text: str) -> str:
        """The beginning of an answer, less the secrets it may repeat."""
        for secret in self._secrets.values():
            if secret:
                text = text.replace(secret, "…")
        return clip(text, _REASON_LIMIT_CHARS)

    def _request(
        self,
        method: str,
        url: str,
        timeout_seconds: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> _Answer:
        """One request and the beginning of its answer.

        Raises:
            HTTPError: there was no answer in time.
        """
        deadline = time.monotonic() + timeout_seconds
        connect_seconds = min(CONNECT_TIMEOUT_SECONDS, timeout_seconds)
        response = self._http.request(
            method,
            url,
            body=body,
            headers=headers,
            timeout=urllib3.Timeout(connect=connect_seconds, read=timeout_seconds),
            retries=False,
            redirect=False,
            preload_content=False,
        )
        said = b""
        # The status is the answer; if its explanation is cut off, so be it.
        with closing(response), suppress(HTTPError):
            while len(said) < _ANSWER_LIMIT_BYTES and time.monotonic() < deadline:
                chunk = response.read1(_ANSWER_LIMIT_BYTES)
                if not chunk:
                    response.release_conn()  # read to its end: to be used again
                    break
                said += chunk
        return _Answer(
            response.status,
            " ".join(said.decode("utf-8", "replace").split()),
            retry_after_seconds(response.headers.get("Retry-After")),
        )


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, parts.port or default
