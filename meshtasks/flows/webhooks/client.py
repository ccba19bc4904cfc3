"""Client of webhooks, of n8n or of any other service that takes JSON over HTTP: it
makes requests and interprets the responses.

Only the URLs in config/workflows.yaml are called. A URL contains nothing from a record,
redirects are not followed, and no proxy is taken from the environment.

The worker's circuit ``webhook`` is the circuit of n8n as a whole. It opens if n8n does
not respond; its queues are then paused until a call succeeds. If a single webhook fails
(it is slow, asks for a pause, is not registered, or responds with a login page), only
the records that start it are retried; all others continue. The same applies to webhooks
on other hosts, because n8n's workflows need not wait for them.

In addition, each process has a circuit for each webhook. While it is open, the webhook
is not called, so that the other webhooks are not delayed by it.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self
from urllib.parse import quote, urlsplit

from pydantic_core import to_json
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    ReadTimeoutError,
)

from meshtasks.config.settings import Settings
from meshtasks.errors import SinkRejected, SinkUnavailable, Transient
from meshtasks.flows.circuit import Circuit, State
from meshtasks.flows.sinks import SinkKey
from meshtasks.flows.webhooks.config import Webhook, Workflow
from meshtasks.http import Answer, pool_manager, request
from meshtasks.outcome import DONE, Outcome
from meshtasks.records.envelope import Envelope
from meshtasks.records.timestamps import rfc3339
from meshtasks.text import ends, without_surrogates
from meshtasks.timing import timing

logger = logging.getLogger(__name__)

SINK = "webhook"

PROBE_TIMEOUT_SECONDS = 3.0

_REASON_LIMIT_CHARS = 500

#: Responds 503 until the database is migrated. Older versions do not know this path and
#: respond with an HTML page, but any response of n8n itself is accepted.
_HEALTH_PATH = "/healthz/readiness"
#: Health check that every version has.
_LIFE_PATH = "/healthz"
#: Statuses with which a proxy responds if its server is unavailable.
_NOT_REACHED = frozenset({502, 503, 504})
#: Response, with status 200, to every request while n8n migrates its database.
_STARTING = "n8n is starting up"

#: Response of a TLS server to a plain request (Go's net/http).
_WRONG_SCHEME = "Client sent an HTTP request to an HTTPS server"

_TOO_MANY_REQUESTS = 429
_UNAVAILABLE = 503
_SUCCESS, _REDIRECT, _SERVER_ERROR = 2, 3, 5  # hundreds
#: Transient, like every 5xx: request timeout, too early.
_MAY_PASS = frozenset({408, 425})
#: Possibly caused by single records of a batch: bad request, too large, unprocessable.
_OF_DATA = frozenset({400, 413, 422})
#: Characters that a header value may contain besides letters and digits, without the
#: per cent sign.
_PLAIN = "!#$&'()*+,-./:;<=>?@[]^_`{|}~"


@dataclass(frozen=True, slots=True)
class HomeEvent:
    """One good record of a batch.

    Attributes:
        index: index in the batch.
        time: time of the event, epoch seconds.
        record: the record as workflows get it.
    """

    index: int
    time: float
    record: Mapping[str, Any]


@dataclass(slots=True)
class WorkflowRun:
    """One record and the workflows that it starts.

    Attributes:
        id: id of the record.
        event: the record, its time, and its index in the batch.
        workflows: workflows to call, in order.
        calls: outcome of each call, by name of the workflow.
    """

    id: str
    envelope: Envelope
    event: HomeEvent
    workflows: tuple[Workflow, ...]
    calls: dict[str, Outcome] = field(default_factory=dict)

    @property
    def taken(self) -> list[str]:
        """Names of the workflows that were called successfully."""
        return [name for name, outcome in self.calls.items() if outcome is DONE]


class WebhookRequest(NamedTuple):
    """One HTTP request: a workflow, and the records (at least one) that start it."""

    workflow: Workflow
    runs: list[WorkflowRun]

    def body(self) -> bytes:
        """Return the record, or for a whole batch an array of records with their ids,
        as JSON."""
        if self.workflow.webhook.send == "record":
            return to_json(self.runs[0].event.record, inf_nan_mode="null")
        entries = [
            {
                "id": run.id,
                "exchange": without_surrogates(run.envelope.exchange),
                "routing_key": without_surrogates(run.envelope.routing_key),
                "time": rfc3339(run.event.time),
                "record": run.event.record,
            }
            for run in self.runs
        ]
        return to_json(entries, inf_nan_mode="null")

    def headers(self) -> dict[str, str]:
        """Return the mesh's own headers. Characters that are not printable ASCII are
        percent-encoded."""
        name = self.workflow.name
        if self.workflow.webhook.send == "batch":
            ids = "\n".join(run.id for run in self.runs).encode()
            key = hashlib.blake2b(ids, digest_size=16).hexdigest()
            return {"Idempotency-Key": f"{key}/{name}", "X-Mesh-Workflow": name}
        (run,) = self.runs
        return {
            "Idempotency-Key": f"{_printable(run.id)}/{name}",
            "X-Mesh-Workflow": name,
            "X-Mesh-Exchange": _printable(run.envelope.exchange),
            "X-Mesh-Routing-Key": _printable(run.envelope.routing_key),
            "X-Mesh-Time": rfc3339(run.event.time),
        }

    def halves(self) -> Iterator[WebhookRequest]:
        """Yield a request for the first half of the records, and one for the second."""
        middle = len(self.runs) // 2
        yield WebhookRequest(self.workflow, self.runs[:middle])
        yield WebhookRequest(self.workflow, self.runs[middle:])

    def resolve(self, outcome: Outcome) -> None:
        """Set the outcome of this call in each of the runs."""
        for run in self.runs:
            run.calls[self.workflow.name] = outcome


def requests_of(runs: Iterable[WorkflowRun]) -> list[WebhookRequest]:
    """Return the requests to make: first one for each record and workflow that takes
    single records, then one for each workflow that takes whole batches."""
    single: list[WebhookRequest] = []
    whole: dict[str, WebhookRequest] = {}
    for run in runs:
        for workflow in run.workflows:
            if workflow.webhook.send == "record":
                single.append(WebhookRequest(workflow, [run]))
            else:
                request = whole.setdefault(workflow.name, WebhookRequest(workflow, []))
                request.runs.append(run)
    return [*single, *whole.values()]


class WebhookBusy(Transient):
    """A webhook cannot be called at present, and is paused.

    Attributes:
        counts: whether this is a failed attempt of the record. False if the webhook
            was already paused, or does not work for any record.
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
    """A webhook rejected a request.

    Attributes:
        of_data: whether only some of its records may be the cause.
    """

    def __init__(self, message: str, *, of_data: bool) -> None:
        super().__init__(message)
        self.of_data = of_data


class Webhooks:
    """Calls webhooks; each process has its own connections.

    Args:
        n8n_url: base URL of n8n.
        secrets: values of authentication headers, by name of the secret.
        clock: returns monotonic seconds.
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
        """Return a client with the URL of n8n and the secrets of the environment."""
        secrets = {
            name: secret.get_secret_value()
            for name, secret in settings.env.secrets.items()
        }
        return cls(settings.env.n8n_url, secrets)

    def is_at_n8n(self, webhook: Webhook) -> bool:
        """Whether n8n serves the webhook, so that the circuit ``webhook`` applies."""
        return webhook.is_path or _origin(webhook.url) == _origin(self._n8n_url)

    def call(self, workflow: Workflow, body: bytes, headers: Mapping[str, str]) -> None:
        """Make one request; return when the response is a 2xx.

        Raises:
            WebhookRefused: the request was rejected permanently.
            WebhookBusy: the webhook is, or is now, paused. n8n itself is available.
            Transient: the response is 408, 425 or a 5xx. n8n itself is available.
            SinkUnavailable: n8n does not respond.
        """
        circuit, began = self._circuits[workflow.name], self._clock()
        if circuit.state(began) is State.OPEN:
            wait = circuit.wait_seconds(began)
            raise WebhookBusy(circuit.reason, wait, counts=False)
        try:
            with timing(SINK) as call:
                call.concerns_sink = self.is_at_n8n(workflow.webhook)
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
            wait = max(circuit.wait_seconds(now), verdict.wait_seconds)
            if opened:
                logger.warning("Webhook paused, retried in %.0f s: %s", wait, error)
            counts = error.counts and verdict.counts
            raise WebhookBusy(str(error), wait, counts=counts) from error
        if circuit.succeeded(began, self._clock()):
            logger.warning('Workflow "%s" is no longer paused', workflow.name)

    def _call(
        self, workflow: Workflow, body: bytes, headers: Mapping[str, str]
    ) -> None:
        """Make one request without the webhook's circuit; raises as :meth:`call`."""
        webhook = workflow.webhook
        at_n8n = self.is_at_n8n(webhook)
        url = self._n8n_url + webhook.url if webhook.is_path else webhook.url
        name = f'workflow "{workflow.name}" at {urlsplit(url).netloc}'
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
            if at_n8n:
                raise self._unavailable(str(error)) from error
            message = f"{name} cannot be reached: {error}"
            raise WebhookBusy(message) from error
        except HTTPError as error:
            if at_n8n:
                self._check_n8n(_HEALTH_PATH)
            message = f"{name} cannot be used: {error}"
            if isinstance(error, ReadTimeoutError):
                message = f"{name} did not answer within {webhook.timeout_seconds:g} s"
            raise WebhookBusy(message) from error
        text = " ".join(answer.text.split())
        if at_n8n:
            if answer.status in _NOT_REACHED or text.startswith(_STARTING):
                self._check_n8n(_HEALTH_PATH)
            elif answer.is_page and not webhook.accepts_pages:
                self._check_n8n(_LIFE_PATH)
        self._judge(webhook, name, answer, text)

    def _judge(self, webhook: Webhook, name: str, answer: Answer, text: str) -> None:
        """Return if the response means success; otherwise raise its error."""
        status, wait = answer.status, answer.retry_after_seconds
        message = f"{name} answered {status}: {self._redacted(text)}"
        if answer.is_page and not webhook.accepts_pages:
            message = f"{message} (a page for people: is this the webhook itself?)"
            raise WebhookBusy(message, wait, counts=False)
        if status // 100 == _SUCCESS:
            if answer.whole and not text.startswith(_STARTING):
                return
            raise WebhookBusy(message)
        if status // 100 == _REDIRECT:
            message = f"{message} (redirects are not followed: correct the URL)"
        if status in webhook.held_statuses or text.startswith(_WRONG_SCHEME):
            raise WebhookBusy(message, wait, counts=False)
        if status in {_TOO_MANY_REQUESTS, _UNAVAILABLE}:
            raise WebhookBusy(message, wait)
        if status in _MAY_PASS or status // 100 == _SERVER_ERROR:
            raise Transient(message, wait)
        raise WebhookRefused(message, of_data=status in _OF_DATA)

    def _redacted(self, text: str) -> str:
        """Return the beginning and the end of a response, without secrets in it."""
        for secret in self._secrets.values():
            if secret:
                text = text.replace(secret, "…")
        return ends(text, _REASON_LIMIT_CHARS)

    def probe(self) -> None:
        """Check that n8n responds, with any response of its own.

        Raises:
            SinkUnavailable: n8n does not respond, or is starting.
        """
        self._check_n8n(_HEALTH_PATH)

    def _check_n8n(self, path: str) -> None:
        url, timeout = self._n8n_url + path, PROBE_TIMEOUT_SECONDS
        try:
            answer = request(self._http, "GET", url, timeout_seconds=timeout)
        except HTTPError as error:
            raise self._unavailable(str(error)) from error
        if answer.status in _NOT_REACHED:
            reason = f"its health check answered {answer.status}"
            raise self._unavailable(reason, answer.retry_after_seconds)
        if answer.text.lstrip().startswith(_STARTING):
            raise self._unavailable("it is starting up")
        if path == _LIFE_PATH and answer.is_page:
            raise self._unavailable("a page for people is shown in its place")

    def _unavailable(
        self, reason: str, retry_after_seconds: float | None = None
    ) -> SinkUnavailable:
        message = f"n8n at {urlsplit(self._n8n_url).netloc} is unavailable: {reason}"
        return SinkUnavailable(SINK, message, retry_after_seconds)

    def close(self) -> None:
        """Close the connections."""
        self._http.clear()


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, parts.port or default


#: Client of webhooks; the name is that of n8n's circuit.
WEBHOOK = SinkKey(SINK, lambda sinks: Webhooks.from_settings(sinks.settings))


def _printable(text: str) -> str:
    return quote(text, safe=_PLAIN, errors="replace")
