"""How much a caller may send, and how often."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from meshtasks.gateway.problems import too_large, too_slow

#: A body must have arrived so long after its head.
_BODY_SECONDS = 60.0


class BodyLimit:
    """Refuses bodies over a size, whether they say their size or not, and those that
    take too long.

    Args:
        app: the application behind it.
        limit_bytes: the largest body.
    """

    def __init__(self, app: ASGIApp, limit_bytes: int) -> None:
        self._app = app
        self._limit_bytes = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if int(declared) > self._limit_bytes:
            await too_large(self._limit_bytes).response(scope, receive, send)
            return
        received_bytes, is_whole = 0, False
        deadline = asyncio.get_running_loop().time() + _BODY_SECONDS

        async def receive_some() -> Message:
            nonlocal received_bytes, is_whole
            if is_whole:  # what follows is that the client hangs up
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise too_slow(_BODY_SECONDS) from None
            is_whole = not message.get("more_body", False)
            received_bytes += len(message.get("body", b""))
            if received_bytes > self._limit_bytes:
                raise too_large(self._limit_bytes)
            return message

        await self._app(scope, receive_some, send)


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float


class RateLimit:
    """A token bucket per client, in memory: a restart forgets, which harms nobody.

    Args:
        per_second: requests that a client may make in the long run.
        burst: requests at once after a rest.
    """

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._buckets: dict[str, _Bucket] = {}
        self._lock = threading.Lock()

    @property
    def burst(self) -> int:
        """What may come at once after a rest."""
        return int(self._burst)

    def wait_seconds(self, client: str, now: float, count: int = 1) -> float:
        """Count a request; 0 if it may go on, else how long the client should wait.

        Args:
            client: its name.
            now: monotonic seconds.
            count: as how many it counts; at most :attr:`burst`.
        """
        with self._lock:
            bucket = self._buckets.setdefault(client, _Bucket(self._burst, now))
            grown = bucket.tokens + (now - bucket.filled_at) * self._per_second
            bucket.tokens, bucket.filled_at = min(grown, self._burst), now
            if bucket.tokens >= count:
                bucket.tokens -= count
                return 0.0
            return (count - bucket.tokens) / self._per_second
