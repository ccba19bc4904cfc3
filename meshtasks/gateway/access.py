"""Authentication, scopes and idempotency keys of requests."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated, Any, NamedTuple

from fastapi import Depends, Header, Request
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from meshtasks.amqp.frames import new_message_id
from meshtasks.flows.contract import Scope
from meshtasks.gateway.clients import Client
from meshtasks.gateway.context import Context, InContext
from meshtasks.gateway.problems import Problem, too_many

_BEARER = HTTPBearer(auto_error=False, description="A token of `MESH_API_TOKENS`.")

_Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]


async def _authenticated(context: InContext, credentials: _Credentials) -> Client:
    client = credentials and context.tokens.client_of(credentials.credentials)
    if not client:
        detail = "A bearer token is needed: `Authorization: Bearer TOKEN`."
        headers = {"WWW-Authenticate": "Bearer"}
        raise Problem(HTTPStatus.UNAUTHORIZED, detail, headers=headers)
    wait_seconds = context.rate.wait_seconds(client.name, time.monotonic())
    if wait_seconds:
        raise too_many(wait_seconds)
    return client


def count_alerts(context: Context, caller: Client, alerts: int) -> None:
    """Count each alert in a message as a request of its own.

    Every alert may cause a notification. Notifications are sent one after the other, so
    many alerts would delay an important one.

    Raises:
        Problem: 413 if there are more alerts than ``burst``, 429 if the rate of the
            caller is exceeded.
    """
    burst = context.rate.burst
    if alerts > burst:
        detail = f"{alerts} alerts; at most {burst} at once (burst in gateway.yaml)."
        raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
    if alerts > 1:  # the request itself is counted already
        now = time.monotonic()
        wait_seconds = context.rate.wait_seconds(caller.name, now, alerts - 1)
        if wait_seconds:
            raise too_many(wait_seconds)


#: Dependency of routes that need a token, whatever its scopes.
AUTHENTICATED = Depends(_authenticated)
#: The client that calls, as a parameter of a route.
Caller = Annotated[Client, AUTHENTICATED]


def demand(caller: Client, *scopes: Scope) -> None:
    """Refuse a caller without all of these scopes.

    Raises:
        Problem: 403, with the missing scopes.
    """
    if missing := sorted(set(scopes) - caller.scopes):
        raise _forbidden(caller, missing)


def demand_sight(caller: Client) -> None:
    """Refuse a caller that has neither the scope ``view`` nor ``operate``.

    Raises:
        Problem: 403.
    """
    if not caller.scopes & {"view", "operate"}:
        raise _forbidden(caller, ["view"])


def _forbidden(caller: Client, missing: list[Scope]) -> Problem:
    detail = f"The token of {caller.name} has no scope {', '.join(missing)}."
    header = f'Bearer error="insufficient_scope", scope="{" ".join(missing)}"'
    return Problem(HTTPStatus.FORBIDDEN, detail, headers={"WWW-Authenticate": header})


async def _read(request: Request) -> bytes:
    return await request.body()


#: The raw body, as a parameter of a route.
Body = Annotated[bytes, Depends(_read)]

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="Requests with the same key are executed once: repeated requests "
        "get the first response.",
    ),
]


class Accepted(NamedTuple):
    """A response with status 202.

    Attributes:
        content: JSON content of the response.
        location: path of the state of the new task, if there is one.
    """

    content: dict[str, Any]
    location: str | None = None

    def response(self, *, replayed: bool) -> JSONResponse:
        """The response.

        Args:
            replayed: whether an earlier request got it first.
        """
        headers = {"Location": self.location} if self.location else {}
        if replayed:
            headers["Idempotency-Replayed"] = "true"
        return JSONResponse(self.content, HTTPStatus.ACCEPTED, headers)


class Once(NamedTuple):
    """A request that is executed once, even if the client repeats it.

    Attributes:
        key: its ``Idempotency-Key``; None makes every request a new one.
        digest: SHA-256 of method, path and body.
    """

    context: Context
    caller: Client
    key: str | None
    digest: str

    def answer(self, act: Callable[[str], Accepted]) -> JSONResponse:
        """Execute the request, or return the response that it got the first time.

        Args:
            act: executes the request, and gets the id for the new message or task. If
                it raises, a repeated request calls it again with the same id; with a
                new id after a ``Problem``.

        Raises:
            Problem: the key belongs to another request, or the request is in progress.
        """
        new_id = new_message_id()
        if self.key is None:
            return act(new_id).response(replayed=False)
        store, name, key = self.context.store, self.caller.name, self.key
        known = store.reserve(name, key, self.digest, new_id, time.time())
        if known.response is not None:
            return Accepted(**known.response).response(replayed=True)
        try:
            accepted = act(known.id)
            store.respond(name, key, accepted._asdict())
        except Problem:  # the request had no effect, so the key is free
            store.forget(name, key)
            raise
        except BaseException:
            store.release(name, key, time.time())
            raise
        return accepted.response(replayed=False)


async def _once(
    request: Request,
    context: InContext,
    caller: Caller,
    body: Body,
    idempotency_key: IdempotencyKey = None,
) -> Once:
    what = f"{request.method} {request.url.path}\n".encode() + body
    digest = hashlib.sha256(what).hexdigest()
    return Once(context, caller, idempotency_key, digest)


#: The request with its idempotency key, as a parameter of a route.
OnceOnly = Annotated[Once, Depends(_once)]
