"""Create the console as one ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from nicegui import app as pages
from nicegui import ui
from starlette.middleware.base import BaseHTTPMiddleware

from meshtasks.flows.loading import Flows
from meshtasks.gateway.console.alerts import add_alerts
from meshtasks.gateway.console.archive import add_archive
from meshtasks.gateway.console.dead_letters import add_dead_letters
from meshtasks.gateway.console.flow import add_flow
from meshtasks.gateway.console.frame import Console
from meshtasks.gateway.console.house import add_house
from meshtasks.gateway.console.live import add_live
from meshtasks.gateway.console.sensor import add_sensor
from meshtasks.gateway.console.sessions import Guard, Sessions
from meshtasks.gateway.console.trying import add_trying
from meshtasks.gateway.console.workers import add_workers
from meshtasks.gateway.context import Context

#: Two fifths of it is how long a page may take to answer a ping; with NiceGUI's own 3 s
#: a phone on a slow network, or a busy gateway, lost its page after 2 s.
_RECONNECT_SECONDS = 30.0


def create_console(context: Context, flows: Flows, sessions: Sessions) -> FastAPI:
    """Create the console; once per process, because NiceGUI has one application."""
    console = Console(context, flows, sessions)

    @asynccontextmanager
    async def watching(_app: FastAPI) -> AsyncIterator[None]:
        console.watch.start()
        yield
        console.watch.stop()

    app = FastAPI(lifespan=watching, openapi_url=None)
    for add_page in (
        add_house,
        add_sensor,
        add_flow,
        add_dead_letters,
        add_alerts,
        add_live,
        add_trying,
        add_archive,
        add_workers,
    ):
        add_page(console)
    app.include_router(console.routes)
    app.add_middleware(Guard, sessions=sessions)
    ui.run_with(
        app,
        title="meshtasks",
        dark=None,
        language="en-US",
        show_welcome_message=False,
        reconnect_timeout=_RECONNECT_SECONDS,
    )
    _take_out_buffers()
    return app


def _take_out_buffers() -> None:
    """Remove NiceGUI's middlewares that are based on :class:`BaseHTTPMiddleware`.

    If a browser disconnects before the first byte, for example when it leaves a page
    whose scripts it still loads, they raise "No response returned". One of them serves
    proxies with a path prefix, which the console does not support. :class:`Guard` adds
    the header of the other one.
    """
    pages.user_middleware = [
        each
        for each in pages.user_middleware
        if not (isinstance(each.cls, type) and issubclass(each.cls, BaseHTTPMiddleware))
    ]
