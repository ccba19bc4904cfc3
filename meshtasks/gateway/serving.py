"""Connections of clients that do not finish their requests are closed."""

from __future__ import annotations

import asyncio
from typing import Any

from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

#: A request's head must have arrived so long after its first byte, or after the
#: connection was made.
HEAD_SECONDS = 20.0


class PromptProtocol(H11Protocol):
    """uvicorn's protocol, which by itself waits for the rest of a head for ever."""

    head_seconds = HEAD_SECONDS
    _expiry: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_head()

    @override
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        cycle: Any = self.cycle  # typed as if there were always one
        if cycle is None or cycle.response_complete:
            self._expect_head()
        else:
            self._expect_nothing()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        if self._expiry is None:
            self._expiry = self.loop.call_later(self.head_seconds, self.transport.close)

    def _expect_nothing(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
