"""Mount the console in the gateway when it is first needed.

Its libraries take 30 MB, which a small machine should not spend while nobody uses the
console. It is created when somebody opens the login: it is ready when the token is
typed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from meshtasks.flows.loading import Flows
from meshtasks.gateway.console import EXPORT, PAGES, SENSOR
from meshtasks.gateway.console.sessions import (
    OPEN,
    Guard,
    Sessions,
    cookie_of,
    routes,
)
from meshtasks.gateway.context import Context

#: Addresses of the console. NiceGUI's scripts, fonts and web socket are below
#: ``_PROGRAMS``.
_ADDRESSES = {*PAGES, EXPORT, *OPEN}
_PROGRAMS = "/_nicegui"


def mount_console(app: FastAPI, context: Context, flows: Flows) -> None:
    """Serve the console at ``/``.

    Args:
        app: the gateway; its own routes have priority.
        context: the parts that the gateway's routes share.
        flows: all flows.
    """
    console = _LazyConsole(app, context, flows)
    served = app.router.lifespan_context

    @asynccontextmanager
    async def serving(app: FastAPI) -> AsyncIterator[None]:
        async with served(app):
            yield
            await console.stop()

    app.router.lifespan_context = serving
    app.mount("/", console)


class _LazyConsole:
    """Serves the login, and from its first request on the console."""

    def __init__(self, gateway: FastAPI, context: Context, flows: Flows) -> None:
        self._gateway = gateway
        self._context = context
        self._flows = flows
        self._sessions = Sessions(context.tokens)
        entrance = FastAPI(openapi_url=None)
        entrance.include_router(routes(self._sessions))
        self._entrance = Guard(entrance, self._sessions)
        self._making: asyncio.Task[FastAPI] | None = None
        self._running = AsyncExitStack()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request.

        Raises:
            HTTPException: it is not for a page.
        """
        path = scope["path"]
        if not (path in _ADDRESSES or path.startswith((_PROGRAMS, SENSOR))):
            await self._refuse(scope, receive, send)
            return
        made = self._made()
        is_program = path.startswith(_PROGRAMS) and scope["type"] == "http"
        is_known = self._sessions.client_of(cookie_of(scope)) is not None
        if path in OPEN or not (is_program or is_known):
            await self._entrance(scope, receive, send)
            return
        app = await asyncio.shield(made)  # continues if the browser disconnects
        await app(scope, receive, send)

    def _made(self) -> asyncio.Task[FastAPI]:
        """The console's task; starts it if there is none, or if it failed."""
        is_lost = self._making and self._making.done() and self._making.exception()
        if self._making is None or is_lost:
            self._making = asyncio.create_task(self._start())
        return self._making

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond as the gateway would without the console, which is mounted last: if
        another method of the path exists, the response names it."""
        for route in self._gateway.routes:
            match, more = route.matches(scope)
            if match is Match.PARTIAL:
                scope.update(more)
                await route.handle(scope, receive, send)
                return
        raise HTTPException(HTTPStatus.NOT_FOUND)

    async def stop(self) -> None:
        """End the console's threads."""
        if self._making is not None:
            await asyncio.wait([self._making])
        await self._running.aclose()

    async def _start(self) -> FastAPI:
        create: Any = await asyncio.to_thread(_create_console)
        app: FastAPI = create(self._context, self._flows, self._sessions)
        await self._running.enter_async_context(app.router.lifespan_context(app))
        return app


def _create_console() -> Any:
    """Import the console; this takes more than a second."""
    from meshtasks.gateway.console.app import create_console  # noqa: PLC0415

    return create_console
