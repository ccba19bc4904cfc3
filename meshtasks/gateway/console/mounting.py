"""Puts the console into the gateway, and makes it when its first page is asked for: its
libraries take 30 MB, which a small machine has better uses for while nobody looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from meshtasks.flows.loading import Flows
from meshtasks.gateway.context import Context
from meshtasks.gateway.problems import Problem


def mount_console(app: FastAPI, context: Context, flows: Flows) -> None:
    """Serve the console at ``/``.

    Args:
        app: the gateway; its routes come first.
        context: its parts.
        flows: those of the mesh.
    """

    @app.api_route("/v1/{rest:path}", include_in_schema=False)
    def not_found(rest: str) -> None:
        """What is no part of the interface is no page either."""
        raise Problem(HTTPStatus.NOT_FOUND, f"There is no /v1/{rest}.")

    console = _LazyConsole(context, flows)
    served = app.router.lifespan_context

    @asynccontextmanager
    async def serving(app: FastAPI) -> AsyncIterator[None]:
        async with served(app):
            yield
            await console.stop()

    app.router.lifespan_context = serving
    app.mount("/", console)


class _LazyConsole:
    """The console, from its first request on."""

    def __init__(self, context: Context, flows: Flows) -> None:
        self._context = context
        self._flows = flows
        self._app: FastAPI | None = None
        self._running = AsyncExitStack()
        self._lock = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        async with self._lock:
            if self._app is None:
                self._app = await self._start()
        await self._app(scope, receive, send)

    async def stop(self) -> None:
        """End its threads."""
        await self._running.aclose()

    async def _start(self) -> FastAPI:
        create: Any = await asyncio.to_thread(_create_console)
        app: FastAPI = create(self._context, self._flows)
        await self._running.enter_async_context(app.router.lifespan_context(app))
        return app


def _create_console() -> Any:
    """Import it, which takes a second and more."""
    from meshtasks.gateway.console.app import create_console  # noqa: PLC0415

    return create_console
