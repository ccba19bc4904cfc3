"""Webhooks of n8n, and of whatever else takes JSON over HTTP.

Only what config/workflows.yaml names is ever called: a URL holds nothing that comes
from a record, redirects are not followed, and no proxy is taken from the
environment.

The worker's circuit ``webhook`` is n8n's, for all its workflows together: it opens
when n8n itself gives no sign of life, and then the queues rest until a call is
answered. What only one webhook suffers from (it is slow, asks for a pause, is not
registered, shows a login page) is a matter of the records that start it; these are
retried and all others go on. So are the records for any other host, since n8n's
workflows need not wait for that.

Each webhook has a circuit of its own here, in each process: while it is open the
webhook is not called, so that the others need not wait for it again and again.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Self
from urllib.parse import urlsplit

from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    ReadTimeoutError,
)

from meshtasks.config.settings import Settings
from meshtasks.errors import SinkRejected, SinkUnavailable, Transient
from meshtasks.flows.circuit import Circuit, State
from meshtasks.flows.http import Answer, pool_manager, request
from meshtasks.flows.sinks import SinkKey
from meshtasks.flows.webhooks.config import Webhook, Workflow
from meshtasks.text import ends
from meshtasks.timing import timing

logger = logging.getLogger(__name__)

SINK = "webhook"

PROBE_TIMEOUT_SECONDS = 3.0

_REASON_LIMIT_CHARS = 500

#: Answers 503 until the database is migrated. Older versions do not know it, and show
#: their page for people, but any answer of n8n's own will do.
_HEALTH_PATH = "/healthz/readiness"
#: Which every version knows.
_LIFE_PATH = "/healthz"
#: What a proxy says in place of a server that it does not reach.
_NOBODY_THERE = frozenset({502, 503, 504})
#: With status 200, to every request, while it migrates its database.
_STARTING = "n8n is starting up"

#: A server of TLS, to whoever does not speak it (Go's net/http).
_WRONG_SCHEME = "Client sent an HTTP request to an HTTPS server"

_TOO_MANY_REQUESTS = 429
_UNAVAILABLE = 503
_SUCCESS, _REDIRECT, _SERVER_ERROR = 2, 3, 5  # hundreds
#: May pass, like every 5xx: request timeout, too early.
_MAY_PASS = frozenset({408, 425})
#: May be about single records of a batch: bad request, too large, unprocessable.
_OF_DATA = frozenset({400, 413, 422})


class WebhookBusy(Transient):
    """A webhook is in trouble and is left alone for a while.

    Args:
        retry_after_seconds: how long.
        counts: whether it is held against the record. Not so if the webhook was left
            alone this time, or does not work for any record.
    """

    def __init__(
        self,
        message: str,
        retry_after_seconds: float | None = None,
        *,
        counts: bool = True,
    ) -> None:
        super().__init__(message, retry_after_seconds)
        self.counts = counts


class WebhookRefused(SinkRejected):
    """A webhook refused a request.

    Args:
        of_data: it may be about some of the records in it only.
    """

    def __init__(self, message: str, *, of_data: bool) -> None:
        super().__init__(message)
        self.of_data = of_data


class Webhooks:
    """Calls webhooks; each process has its own connections.

    Args:
        n8n_url: base URL of n8n.
        secrets: values of authentication headers, by name.
        clock: seconds that only go forward.
        new_circuit: makes the circuit of a webhook.
    """

    def __init__(
        self,
        n8n_url: str,
        secrets: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
        new_circuit: Callable[[], Circuit] = Circuit,
    ) -> None:
        self._n8n_url = n8n_url.rstrip("/")
        self._secrets = secrets
        self._clock = clock
        self._circuits: defaultdict[str, Circuit] = defaultdict(new_circuit)
        self._http = pool_manager(maxsize=1)

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
            WebhookRefused: it was refused for good.
            WebhookBusy: the webhook is in trouble, or is left alone since it was. n8n
                itself is there.
            Transient: 408, 425 or a 5xx; n8n itself is there.
            SinkUnavailable: n8n gives no sign of life.
        """
        circuit, began = self._circuits[workflow.name], self._clock()
        if circuit.state(began) is State.OPEN:
            wait = circuit.wait_seconds(began)
            raise WebhookBusy(circuit.reason, wait, counts=False)
        try:
            self._call(workflow, body, headers)
        except WebhookBusy as error:
            now = self._clock()
            verdict = circuit.verdict(began, now)
            opened = circuit.failed(
                str(error),
                began,
                now,
                asked_seconds=error.retry_after_seconds,
                lasted_seconds=now - began,
            )
            if opened:
                logger.warning("Not called for a while: %s", error)
            counts = error.counts and verdict.counts
            wait = max(circuit.wait_seconds(now), verdict.wait_seconds)
            raise WebhookBusy(str(error), wait, counts=counts) from error
        if circuit.succeeded(began, self._clock()):
            logger.warning('Workflow "%s" is called again', workflow.name)

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
            answer = request(
                self._http,
                webhook.method,
                url,
                timeout_seconds=webhook.timeout_seconds,
                body=body,
                headers={**headers, **own},
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
            raise WebhookBusy(message) from error
        said = " ".join(answer.text.split())
        if answer.status in _NOBODY_THERE or said.startswith(_STARTING):
            self._require_n8n(webhook)
        elif answer.is_page and not webhook.accepts_pages:
            self._require_n8n(webhook, by=_LIFE_PATH)
        self._judge(webhook, at, answer, said)

    def probe(self) -> None:
        """Ask n8n for a sign of life: any answer that is its own.

        Raises:
            SinkUnavailable: it gave none.
        """
        self._ask_n8n(_HEALTH_PATH)

    def _ask_n8n(self, path: str) -> None:
        url = self._n8n_url + path
        try:
            answer = request(
                self._http, "GET", url, timeout_seconds=PROBE_TIMEOUT_SECONDS
            )
        except HTTPError as error:
            raise self._down(str(error)) from error
        if answer.status in _NOBODY_THERE:
            fault = f"its health check answered {answer.status}"
            raise self._down(fault, answer.retry_after_seconds)
        if answer.text.lstrip().startswith(_STARTING):
            raise self._down("it is starting up")
        if path == _LIFE_PATH and answer.is_page:
            raise self._down("a page for people is shown in its place")

    def close(self) -> None:
        """Close the connections."""
        self._http.clear()

    def _require_n8n(self, webhook: Webhook, by: str = _HEALTH_PATH) -> None:
        """After a fault: see whether it is n8n's as a whole."""
        if self.is_at_n8n(webhook):
            self._ask_n8n(by)

    def _down(
        self, fault: str, retry_after_seconds: float | None = None
    ) -> SinkUnavailable:
        message = f"n8n at {urlsplit(self._n8n_url).netloc} is not there: {fault}"
        return SinkUnavailable(SINK, message, retry_after_seconds)

    def _judge(self, webhook: Webhook, at: str, answer: Answer, said: str) -> None:
        """What the answer of a webhook means, of a host that is there."""
        status, wait = answer.status, answer.retry_after_seconds
        text = f"{at} answered {status}: {self._redacted(said)}"
        if answer.is_page and not webhook.accepts_pages:
            text = f"{text} (a page for people: is this the webhook itself?)"
            raise WebhookBusy(text, wait, counts=False)
        if status // 100 == _SUCCESS:
            if answer.whole and not said.startswith(_STARTING):
                return
            raise WebhookBusy(text)
        if status // 100 == _REDIRECT:
            text = f"{text} (redirects are not followed: correct the URL)"
        if status in webhook.held_statuses or said.startswith(_WRONG_SCHEME):
            raise WebhookBusy(text, wait, counts=False)
        if status in {_TOO_MANY_REQUESTS, _UNAVAILABLE}:
            raise WebhookBusy(text, wait)
        if status in _MAY_PASS or status // 100 == _SERVER_ERROR:
            raise Transient(text, wait)
        raise WebhookRefused(text, of_data=status in _OF_DATA)

    def _redacted(self, text: str) -> str:
        """The beginning and the end of an answer, less the secrets it may repeat."""
        for secret in self._secrets.values():
            if secret:
                text = text.replace(secret, "…")
        return ends(text, _REASON_LIMIT_CHARS)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, parts.port or default


#: Calls webhooks; the name is that of n8n's circuit.
WEBHOOK = SinkKey("webhook", lambda sinks: Webhooks.from_settings(sinks.settings))
