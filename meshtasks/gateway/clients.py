"""Clients of the gateway: bearer tokens with scopes; limits on rate and body."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import threading
from dataclasses import dataclass
from typing import get_args

from starlette import types as asgi

from meshtasks.errors import ConfigError
from meshtasks.flows.contract import Scope
from meshtasks.gateway.problems import too_large, too_slow

_VARIABLE = "MESH_API_TOKENS"
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
#: Fewest characters of a token: 128 random bits, which are safe from guessing, are 22
#: characters of base64.
_SHORTEST_TOKEN = 22
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")  # RFC 6750, section 2.1
_EXAMPLE = "n8n:publish+trigger:TOKEN"
_HINT = 'make one with: python3 -c "import secrets; print(secrets.token_urlsafe(32))"'


@dataclass(frozen=True, slots=True)
class Client:
    """The owner of a token.

    Attributes:
        name: name in logs, metrics and the history of alerts.
        scopes: what the token permits.
    """

    name: str
    scopes: frozenset[Scope]


class Tokens:
    """The known tokens. Only their digests are kept in memory.

    Args:
        text: entries ``name:scope+scope:token``, separated by commas or line breaks.

    Raises:
        ConfigError: there is no entry, or an entry is wrong. The error gives the
            number of the entry and never quotes its token.
    """

    def __init__(self, text: str) -> None:
        self._clients: list[tuple[bytes, Client]] = []
        entries = [each for each in re.split(r"[,\s]+", text) if each]
        if not entries:
            expected = (
                f"expected at least one token, as {_EXAMPLE}; there is none to begin "
                f"with, so {_HINT}"
            )
            raise ConfigError("environment", _VARIABLE, expected)
        for place, entry in enumerate(entries, start=1):
            client, token = _parsed(place, entry)
            if client.name in {known.name for _, known in self._clients}:
                raise _wrong(place, f"the name {client.name} is given twice")
            self._clients.append((_digest(token), client))

    def client_of(self, token: str) -> Client | None:
        """The client with this token; None if the token is unknown.

        Every known token is compared, in constant time, so that the duration of a
        request says nothing about a token.
        """
        digest, found = _digest(token), None
        for known, client in self._clients:
            if hmac.compare_digest(known, digest):
                found = client
        return found


def _parsed(place: int, entry: str) -> tuple[Client, str]:
    name, _, rest = entry.partition(":")
    scopes, _, token = rest.partition(":")
    if not token or not _NAME.fullmatch(name):
        raise _wrong(place, f"expected {_EXAMPLE}, the name in small letters")
    known: tuple[Scope, ...] = get_args(Scope)
    given = set(scopes.split("+"))
    if not given <= set(known):
        raise _wrong(place, f"the scopes of {name} should be of {', '.join(known)}")
    if len(token) < _SHORTEST_TOKEN or not _TOKEN.fullmatch(token):
        reason = (
            f"the token of {name} should be {_SHORTEST_TOKEN} or more letters, digits "
            f"and . _ ~ + / = -; {_HINT}"
        )
        raise _wrong(place, reason)
    return Client(name, frozenset(each for each in known if each in given)), token


def _wrong(place: int, reason: str) -> ConfigError:
    return ConfigError("environment", _VARIABLE, f"entry {place}: {reason}")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


#: Longest time from the headers of a request to the end of its body.
_BODY_SECONDS = 60.0


class BodyLimit:
    """ASGI middleware that refuses bodies that are too large or arrive too slowly.

    The size is checked with and without ``Content-Length``.

    Args:
        limit_bytes: size of the largest accepted body.
    """

    def __init__(self, app: asgi.ASGIApp, limit_bytes: int) -> None:
        self._app = app
        self._limit_bytes = limit_bytes

    async def __call__(
        self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send
    ) -> None:
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

        async def receive_some() -> asgi.Message:
            nonlocal received_bytes, is_whole
            if is_whole:  # the next message is the client's disconnection
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
    """A token bucket for each client, in memory. A restart resets all buckets.

    Args:
        per_second: average rate of requests permitted to a client.

    Attributes:
        burst: requests permitted at once, after a pause.
    """

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second = per_second
        self.burst = burst
        self._buckets: dict[str, _Bucket] = {}
        self._lock = threading.Lock()

    def wait_seconds(self, client: str, now: float, count: int = 1) -> float:
        """Count a request if it is permitted.

        Args:
            now: current time of the monotonic clock, in seconds.
            count: number of requests that it counts as; at most :attr:`burst`.

        Returns:
            0 if the request is permitted, else seconds until it would be.
        """
        with self._lock:
            bucket = self._buckets.setdefault(client, _Bucket(self.burst, now))
            grown = bucket.tokens + (now - bucket.filled_at) * self._per_second
            bucket.tokens, bucket.filled_at = min(grown, self.burst), now
            if bucket.tokens >= count:
                bucket.tokens -= count
                return 0.0
            return (count - bucket.tokens) / self._per_second
