"""What the gateway counts, for Prometheus."""

from __future__ import annotations

import time
from http import HTTPStatus

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Observations:
    """The metrics of one gateway."""

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
        """Count a request. Routes are templates: a caller cannot make new ones."""
        method, route = scope["method"], scope.get("route")
        path = getattr(route, "path", "none")
        self._requests.labels(method, path, str(status)).inc()
        self._seconds.labels(method, path).observe(seconds)


class Observe:
    """Counts requests and measures them."""

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
