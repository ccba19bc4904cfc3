"""The ASGI application of the gateway, and its HTTP protocol for uvicorn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse, Response
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

from meshtasks.gateway import problems, queries, routes
from meshtasks.gateway.access import Caller
from meshtasks.gateway.clients import BodyLimit
from meshtasks.gateway.config import GATEWAY
from meshtasks.gateway.context import Context, InContext, Observe

_DESCRIPTION = """\
Publish events to the mesh, call commands and get their results. With 202, the broker
has confirmed the message. Every error is a problem detail (RFC 9457)."""

router = APIRouter(tags=["operation"])


@router.get("/healthz")
async def show_health(context: InContext) -> JSONResponse:
    """Return 200 while the broker is available; needs no token."""
    if context.answers.listening:
        return JSONResponse({"status": "ok"})
    content = {"status": "the broker is away"}
    return JSONResponse(content, HTTPStatus.SERVICE_UNAVAILABLE)


@router.get("/metrics", response_class=Response)
async def show_metrics(context: InContext, _caller: Caller) -> Response:
    """Return metrics for Prometheus; needs any token."""
    text = generate_latest(context.observations.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def create_gateway(context: Context) -> FastAPI:
    """Create the application. The threads of ``context`` run while it is served."""

    @asynccontextmanager
    async def running(_app: FastAPI) -> AsyncIterator[None]:
        context.start()
        yield
        context.stop()

    app = FastAPIOffline(  # /docs loads no files from other servers
        title="meshtasks gateway",
        description=_DESCRIPTION,
        version=version("meshtasks"),
        lifespan=running,
        redoc_url=None,
        strict_content_type=False,  # a body without Content-Type is JSON, too
    )
    app.state.context = context
    app.include_router(routes.events)
    app.include_router(routes.tasks(context.commands))
    app.include_router(queries.router)
    app.include_router(router)
    problems.install(app)
    limit_bytes = context.settings.read(GATEWAY).max_body_bytes
    app.add_middleware(BodyLimit, limit_bytes=limit_bytes)
    app.add_middleware(Observe, observations=context.observations)
    return app


#: Longest time from the first byte of a request, or from the connection, to the end of
#: the headers.
HEAD_SECONDS = 20.0


class PromptProtocol(H11Protocol):
    """uvicorn's HTTP protocol with a time limit for the headers of a request.

    Without it, uvicorn waits forever for the rest of the headers.
    """

    head_seconds = HEAD_SECONDS
    _expiry: asyncio.TimerHandle | None = None
    _is_web_socket = False

    @override
    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_head()

    @override
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        cycle: Any = self.cycle  # may be None, which its type does not say
        if cycle is None or cycle.response_complete:
            self._expect_head()
        else:
            self._expect_nothing()

    @override
    def handle_websocket_upgrade(self, event: Any) -> None:
        super().handle_websocket_upgrade(event)
        self._expect_nothing()
        self._is_web_socket = True  # further data is not HTTP

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        if self._expiry is None and not self._is_web_socket:
            self._expiry = self.loop.call_later(self.head_seconds, self.transport.close)

    def _expect_nothing(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
