"""Who calls, whether they may, and whether they have called before."""

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
    """Have each alert of a message count as a request: people are told of each, one
    after the other, and the alarm that matters waits behind them.

    Raises:
        Problem: they are too many at once, or too many for now.
    """
    burst = context.rate.burst
    if alerts > burst:
        detail = f"{alerts} alerts; at most {burst} at once (burst in gateway.yaml)."
        raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
    if alerts > 1:  # the request itself is counted
        now = time.monotonic()
        wait_seconds = context.rate.wait_seconds(caller.name, now, alerts - 1)
        if wait_seconds:
            raise too_many(wait_seconds)


#: Any token will do.
AUTHENTICATED = Depends(_authenticated)
#: Who calls, as a parameter of a route.
Caller = Annotated[Client, AUTHENTICATED]


def demand(caller: Client, *scopes: Scope) -> None:
    """Refuse a caller who lacks one of the scopes.

    Raises:
        Problem: 403, with the scopes that are missing.
    """
    if missing := sorted(set(scopes) - caller.scopes):
        raise _forbidden(caller, missing)


def demand_sight(caller: Client) -> None:
    """Refuse a caller who may neither view nor operate.

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


#: The body as it came.
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
    """A 202.

    Attributes:
        content: of the answer.
        location: where to ask what became of it.
    """

    content: dict[str, Any]
    location: str | None = None

    def response(self, *, replayed: bool) -> JSONResponse:
        """The answer."""
        headers = {"Location": self.location} if self.location else {}
        if replayed:
            headers["Idempotency-Replayed"] = "true"
        return JSONResponse(self.content, HTTPStatus.ACCEPTED, headers)


class Once(NamedTuple):
    """A request that is done once, however often it is made.

    Attributes:
        key: its ``Idempotency-Key``; without one each request is another.
        digest: of method, path and body.
    """

    context: Context
    caller: Client
    key: str | None
    digest: str

    def answer(self, act: Callable[[str], Accepted]) -> JSONResponse:
        """Act, or give the first answer again.

        Args:
            act: is given the id of what it is to make. It may be called again with
                the same id after it raised.
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
        except Problem:  # nothing was done, so the key is free
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


#: The request as one that may be repeated, as a parameter of a route.
OnceOnly = Annotated[Once, Depends(_once)]
