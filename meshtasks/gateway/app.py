"""The gateway as one ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse, Response
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from meshtasks.gateway import events, problems, tasks
from meshtasks.gateway.access import Caller
from meshtasks.gateway.config import GATEWAY
from meshtasks.gateway.context import Context, InContext
from meshtasks.gateway.limits import BodyLimit
from meshtasks.gateway.observing import Observe

_DESCRIPTION = """\
Events into the mesh, commands, and what became of them. What is answered with 202 the
broker has stored. Every error is a problem detail (RFC 9457)."""

router = APIRouter(tags=["operation"])


@router.get("/healthz")
async def show_health(context: InContext) -> JSONResponse:
    """Say whether the gateway can do its work; open to all."""
    if context.answers.listening:
        return JSONResponse({"status": "ok"})
    content = {"status": "the broker is away"}
    return JSONResponse(content, HTTPStatus.SERVICE_UNAVAILABLE)


@router.get("/metrics", response_class=Response)
async def show_metrics(context: InContext, _caller: Caller) -> Response:
    """Show metrics for Prometheus; any token will do."""
    text = generate_latest(context.observations.registry)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


def create_gateway(context: Context) -> FastAPI:
    """The application; its threads run while it is served."""

    @asynccontextmanager
    async def running(_app: FastAPI) -> AsyncIterator[None]:
        context.start()
        yield
        context.stop()

    app = FastAPIOffline(  # /docs loads nothing from elsewhere
        title="meshtasks gateway",
        description=_DESCRIPTION,
        version=version("meshtasks"),
        lifespan=running,
        redoc_url=None,
        strict_content_type=False,  # a body without a type is JSON all the same
    )
    app.state.context = context
    app.include_router(events.router)
    app.include_router(tasks.routes(context.commands))
    app.include_router(router)
    problems.install(app)
    limit_bytes = context.settings.read(GATEWAY).max_body_bytes
    app.add_middleware(BodyLimit, limit_bytes=limit_bytes)
    app.add_middleware(Observe, observations=context.observations)
    return app
