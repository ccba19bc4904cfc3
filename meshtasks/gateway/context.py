"""The parts that the routes of a gateway share, and its metrics for Prometheus."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Self

from fastapi import Depends, Request
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from meshtasks.amqp.connecting import unopened
from meshtasks.amqp.publisher import Publisher
from meshtasks.amqp.republisher import Republisher
from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.settings import Settings
from meshtasks.flows.contract import Command, Handler
from meshtasks.gateway.clients import RateLimit, Tokens
from meshtasks.gateway.config import GATEWAY
from meshtasks.gateway.store import Answers, Store
from meshtasks.gateway.validation import Validator
from meshtasks.observation.query import Queries
from meshtasks.state.database import StateLocation
from meshtasks.worker.recording import Recorder


class Observations:
    """The metrics of one gateway.

    Attributes:
        registry: registry with all of them.
        published: confirmed messages, by exchange.
        submitted: called commands, by name.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._seconds = Histogram(
            "meshtasks_gateway_request_seconds",
            "Time to answer a request, by route.",
            ["method", "route"],
            registry=self.registry,
        )
        self._requests = Counter(
            "meshtasks_gateway_requests",
            "Requests answered, by route and status.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.published = Counter(
            "meshtasks_gateway_published",
            "Messages confirmed by the broker, by exchange.",
            ["exchange"],
            registry=self.registry,
        )
        self.submitted = Counter(
            "meshtasks_gateway_submitted",
            "Commands called, by name.",
            ["task"],
            registry=self.registry,
        )

    def answered(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request and its duration.

        The label is the template of the route, so that callers cannot create labels.
        """
        method, route = scope["method"], scope.get("route")
        path = getattr(route, "path", "none")
        self._requests.labels(method, path, str(status)).inc()
        self._seconds.labels(method, path).observe(seconds)


class Observe:
    """ASGI middleware that counts requests and measures their duration."""

    def __init__(self, app: ASGIApp, observations: Observations) -> None:
        self._app = app
        self._observations = observations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_at = time.monotonic()
        status = HTTPStatus.INTERNAL_SERVER_ERROR.value

        async def send_seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_seen)
        finally:
            seconds = time.monotonic() - started_at
            self._observations.answered(scope, status, seconds)


#: Most messages that wait for publishing, and timeout of a publisher confirm.
_MAX_WAITING, _CONFIRM_SECONDS = 1_000, 10.0
_HOUR_SECONDS, _DAY_SECONDS = 3_600.0, 86_400.0
_RECORDER_SECONDS = 5.0


@dataclass(frozen=True)
class Context:
    """The parts of a gateway. Recorder, republisher and answers are threads.

    Attributes:
        looking: the settings with the broker account of the console, for read access.
    """

    settings: Settings
    looking: Settings
    commands: Mapping[str, Command[Any]]
    tokens: Tokens
    rate: RateLimit
    validator: Validator
    store: Store
    republisher: Republisher
    answers: Answers
    observations: Observations
    recorder: Recorder
    queries: Queries

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        handlers: Mapping[str, Handler],
        commands: Mapping[str, Command[Any]],
    ) -> Self:
        """Create the parts; no thread is started.

        Args:
            settings: the settings of the process.
            handlers: handlers by queue.
            commands: commands by name.

        Raises:
            ConfigError: a setting is missing or wrong.
        """
        env, config = settings.env, settings.read(GATEWAY)
        unopened(env.amqp_url)  # raises for a URL that is not an AMQP URL
        store = Store(
            StateLocation.of(env),
            config.keep_keys_hours * _HOUR_SECONDS,
            config.keep_tasks_days * _DAY_SECONDS,
        )
        answers_queue = settings.read(TOPOLOGY).answers_queue.name
        recorder = Recorder(env, f"gateway@{socket.gethostname()}", "gateway")
        looking = env.console_broker_url
        return cls(
            settings,
            Settings(env.model_copy(update={"broker_url": looking}))
            if looking.get_secret_value()
            else settings,
            commands,
            Tokens(env.api_tokens.get_secret_value()),
            RateLimit(config.requests_per_second, config.burst),
            Validator(settings, handlers),
            store,
            Republisher(
                Publisher(env.amqp_url, confirm_timeout_seconds=_CONFIRM_SECONDS),
                _MAX_WAITING,
            ),
            Answers(env.amqp_url, answers_queue, store, recorder.connection),
            Observations(),
            recorder,
            Queries(),
        )

    def start(self) -> None:
        """Start the threads."""
        self.recorder.start()
        self.republisher.start()
        self.answers.start()

    def stop(self) -> None:
        """Publish the accepted messages, stop the threads, close the state."""
        self.answers.stop()
        self.republisher.stop()
        self.recorder.stop(_RECORDER_SECONDS)
        self.store.close()


def _of_request(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


#: The context of the gateway, as a parameter of a route.
InContext = Annotated[Context, Depends(_of_request)]
