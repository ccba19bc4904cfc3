"""Webhooks of n8n, and of any other service that takes JSON over HTTP: the requests to
make, and what their answers mean.

Only what config/workflows.yaml names is ever called: a URL holds nothing that comes
from a record, redirects are not followed, and no proxy is taken from the
environment.

The worker's circuit ``webhook`` is that of n8n as a whole: it opens when n8n gives no
sign of life, and then the queues are paused until a call succeeds. What concerns one
webhook only (it is slow, asks for a pause, is not registered, shows a login page) is a
matter of the records that start it; these are retried and all others go on. So are the
records for any other host, since n8n's workflows need not wait for that.

Each webhook has a circuit of its own here, in each process: while it is open the
webhook is not called, so that the others need not wait for it again and again.
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
from meshtasks.flows.excerpts import rfc3339
from meshtasks.flows.sinks import SinkKey
from meshtasks.flows.webhooks.config import Webhook, Workflow
from meshtasks.http import Answer, pool_manager, request
from meshtasks.outcome import DONE, Outcome
from meshtasks.records.envelope import Envelope
from meshtasks.text import ends, without_surrogates
from meshtasks.timing import timing

logger = logging.getLogger(__name__)

SINK = "webhook"

PROBE_TIMEOUT_SECONDS = 3.0

_REASON_LIMIT_CHARS = 500

#: Answers 503 until the database is migrated. Older versions do not know it, and show
#: an HTML page, but any answer of n8n's own will do.
_HEALTH_PATH = "/healthz/readiness"
#: Which every version knows.
_LIFE_PATH = "/healthz"
#: The answers of a proxy whose server is unavailable.
_NOT_REACHED = frozenset({502, 503, 504})
#: With status 200, to every request, while n8n migrates its database.
_STARTING = "n8n is starting up"

#: The answer of a TLS server to a plain request (Go's net/http).
_WRONG_SCHEME = "Client sent an HTTP request to an HTTPS server"

_TOO_MANY_REQUESTS = 429
_UNAVAILABLE = 503
_SUCCESS, _REDIRECT, _SERVER_ERROR = 2, 3, 5  # hundreds
#: May pass, like every 5xx: request timeout, too early.
_MAY_PASS = frozenset({408, 425})
#: May be about single records of a batch: bad request, too large, unprocessable.
_OF_DATA = frozenset({400, 413, 422})
#: What a header may hold besides letters and digits, less the per cent sign.
_PLAIN = "!#$&'()*+,-./:;<=>?@[]^_`{|}~"


@dataclass(frozen=True, slots=True)
class HomeEvent:
    """One good record of a batch, as workflows see it, and when it happened."""

    index: int
    time: float
    record: Mapping[str, Any]


@dataclass(slots=True)
class WorkflowRun:
    """One record and the workflows it starts.

    Attributes:
        id: the record's id.
        event: the record, its time and its index in the batch.
        workflows: to be called, in order.
        calls: the outcome of each call, by name of the workflow.
    """

    id: str
    envelope: Envelope
    event: HomeEvent
    workflows: tuple[Workflow, ...]
    calls: dict[str, Outcome] = field(default_factory=dict)

    @property
    def taken(self) -> list[str]:
        """The workflows that have taken it."""
        return [name for name, outcome in self.calls.items() if outcome is DONE]


class WebhookRequest(NamedTuple):
    """One HTTP request: a workflow, and the records (at least one) that start it."""

    workflow: Workflow
    runs: list[WorkflowRun]

    def body(self) -> bytes:
        """The record, or for a whole batch an array of records with their ids."""
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
        """The mesh's own headers. Values are percent-encoded where they are not
        printable ASCII."""
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
        """The same for half of the records, and for the other half."""
        middle = len(self.runs) // 2
        yield WebhookRequest(self.workflow, self.runs[:middle])
        yield WebhookRequest(self.workflow, self.runs[middle:])

    def resolve(self, outcome: Outcome) -> None:
        """Record its outcome in the runs."""
        for run in self.runs:
            run.calls[self.workflow.name] = outcome


def requests_of(runs: Iterable[WorkflowRun]) -> list[WebhookRequest]:
    """The requests to make: record by record in the order of its workflows, and
    then those of the workflows that take whole batches."""
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
        counts: whether it is held against the record. Not so if the webhook was
            paused already, or does not work for any record.
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
    """A webhook refused a request; ``of_data`` if it may be about some of its records
    only."""

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
            WebhookBusy: the webhook is paused, or is from now on. n8n itself is there.
            Transient: 408, 425 or a 5xx; n8n itself is there.
            SinkUnavailable: n8n gives no sign of life.
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
        """One request, without the circuit; raises what :meth:`call` raises."""
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
            if isinstance(error, ReadTimeoutError):
                message = f"{name} did not answer within {webhook.timeout_seconds:g} s"
                raise WebhookBusy(message) from error
            message = f"{name} cannot be used: {error}"
            raise WebhookBusy(message) from error
        text = " ".join(answer.text.split())
        if at_n8n:
            if answer.status in _NOT_REACHED or text.startswith(_STARTING):
                self._check_n8n(_HEALTH_PATH)
            elif answer.is_page and not webhook.accepts_pages:
                self._check_n8n(_LIFE_PATH)
        self._judge(webhook, name, answer, text)

    def _judge(self, webhook: Webhook, name: str, answer: Answer, text: str) -> None:
        """Raise the error that the answer of a webhook means; None for success."""
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
        """The beginning and the end of an answer, without secrets it may repeat."""
        for secret in self._secrets.values():
            if secret:
                text = text.replace(secret, "…")
        return ends(text, _REASON_LIMIT_CHARS)

    def probe(self) -> None:
        """Ask n8n for a sign of life: any answer that is its own.

        Raises:
            SinkUnavailable: it gave none.
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
        message = f"n8n at {urlsplit(self._n8n_url).netloc} is not there: {reason}"
        return SinkUnavailable(SINK, message, retry_after_seconds)

    def close(self) -> None:
        """Close the connections."""
        self._http.clear()


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, parts.port or default


#: Calls webhooks; the name is that of n8n's circuit.
WEBHOOK = SinkKey(SINK, lambda sinks: Webhooks.from_settings(sinks.settings))


def _printable(text: str) -> str:
    return quote(text, safe=_PLAIN, errors="replace")
