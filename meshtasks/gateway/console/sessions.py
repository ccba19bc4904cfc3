"""Logging in to the console: a token of the gateway is exchanged for a cookie.

The cookie is a random number without meaning elsewhere. Sessions are in memory and end
with the gateway's process. Pages of other sites can neither read the cookie nor send it
with a change: it is ``SameSite=Lax``, and requests with a foreign origin are rejected,
because a page of another port of this host belongs to the same site.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from http import HTTPStatus
from importlib.metadata import version
from ipaddress import ip_address, ip_network
from string import Template
from urllib.parse import quote, urlsplit

from fastapi import APIRouter, Request
from fastapi.responses import (
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from meshtasks.gateway.clients import Client, RateLimit, Tokens

COOKIE = "mesh_session"
_LIFE_SECONDS = 12 * 3600.0
_MOST_SESSIONS = 1_000
#: Login attempts permitted to an address: five at once, then one every ten seconds.
_ATTEMPTS, _ATTEMPT_SECONDS = 5, 10.0
#: Addresses whose login attempts are counted.
_MOST_ADDRESSES = 10_000
#: Scopes: to view the pages, and to change something; the second includes the first.
VIEW, OPERATE = "view", "operate"

#: Headers of every response: nothing is loaded from other hosts, and no page may be in
#: a frame. Vue compiles templates in the browser, so scripts may be evaluated.
_HEADERS = {
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' "
    "'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'{}; frame-ancestors 'none'; "
    "form-action 'self'; base-uri 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


#: Scripts and fonts whose addresses contain their version; and those generated at run
#: time.
_PROGRAMS, _MADE = f"/_nicegui/{version('nicegui')}/", "/dynamic_resources/"
_HOST = re.compile(r"[A-Za-z0-9.-]+(:\d+)?|\[[0-9a-fA-F:.]+\](:\d+)?")
#: Path of the web socket for the events of a page.
_SOCKET = "/_nicegui_ws"
#: Paths that need no session.
OPEN = {"/login", "/logout"}


class Sessions:
    """The current sessions, in memory; thread-safe."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._sessions: OrderedDict[bytes, tuple[Client, float]] = OrderedDict()
        self._attempts: OrderedDict[str, RateLimit] = OrderedDict()
        self._lock = threading.Lock()

    def wait_seconds(self, address: str) -> float:
        """Count a login attempt. Return 0 if it is permitted, else seconds to wait."""
        address = _network_of(address)
        with self._lock:
            limit = self._attempts.setdefault(
                address, RateLimit(1 / _ATTEMPT_SECONDS, _ATTEMPTS)
            )
            self._attempts.move_to_end(address)
            while len(self._attempts) > _MOST_ADDRESSES:
                self._attempts.popitem(last=False)
        return limit.wait_seconds(address, time.monotonic())

    def begin(self, token: str, address: str) -> str | None:
        """Begin a session and return the value of its cookie.

        The count of the address is reset. The result is None if the token is
        unknown, or has neither the scope ``view`` nor ``operate``.
        """
        client = self._tokens.client_of(token)
        if client is None or not client.scopes & {VIEW, OPERATE}:
            return None
        cookie = secrets.token_urlsafe(32)
        with self._lock:
            self._attempts.pop(_network_of(address), None)
            self._sessions[_digest(cookie)] = client, time.monotonic() + _LIFE_SECONDS
            while len(self._sessions) > _MOST_SESSIONS:
                self._sessions.popitem(last=False)
        return cookie

    def client_of(self, cookie: str | None) -> Client | None:
        """The client of a session; None if the cookie is unknown or has expired."""
        if not cookie:
            return None
        with self._lock:
            client, ends_at = self._sessions.get(_digest(cookie), (None, 0.0))
        return client if time.monotonic() < ends_at else None

    def end(self, cookie: str | None) -> None:
        """End a session."""
        with self._lock:
            self._sessions.pop(_digest(cookie or ""), None)


def _network_of(address: str) -> str:
    """The network of an address: a client with IPv6 has 2**64 addresses, so its /64."""
    with suppress(ValueError):
        parsed = ip_address(address)
        if parsed.version == 6:  # noqa: PLR2004 - the protocol's
            return str(ip_network((int(parsed), 64), strict=False))
    return address


def _digest(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode("utf-8", "surrogateescape")).digest()


_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>meshtasks</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<style>
 body { font: 1rem/1.5 system-ui, sans-serif; display: grid; place-items: center;
   min-height: 90vh; margin: 0 }
 form { display: grid; gap: .75rem; width: min(22rem, 90vw) }
 input, button { font: inherit; padding: .6rem; border-radius: .4rem;
   border: 1px solid #888 }
 button { background: #1f5f8b; color: #fff; border: 0; cursor: pointer }
 p { margin: 0 }
</style></head><body><main><form method="post" action="/login">
<h1>meshtasks</h1><p role="status">$text</p>
<input type="hidden" name="next" value="$after">
<label for="token">Token with the scope view or operate (MESH_API_TOKENS)</label>
<input id="token" name="token" type="password" autocomplete="current-password"
  required autofocus>
<button>Log in</button></form></main></body></html>
""")


def routes(sessions: Sessions) -> APIRouter:
    """The routes to log in and out."""
    router = APIRouter(include_in_schema=False)

    @router.get("/login")
    def show_login(request: Request) -> Response:
        """The login form; a token in the address begins the session directly."""
        if token := request.query_params.get("token"):
            return _log_in(request, token, "/")
        return _form("", _local(request.query_params.get("next", "/")))

    @router.post("/login")
    async def log_in(request: Request) -> Response:
        """Exchange a token for a cookie."""
        form = await request.form()
        return _log_in(
            request, str(form.get("token", "")), _local(str(form.get("next", "/")))
        )

    @router.post("/logout")
    def log_out(request: Request) -> Response:
        """End the session."""
        sessions.end(request.cookies.get(COOKIE))
        response = RedirectResponse("/login", HTTPStatus.SEE_OTHER)
        response.delete_cookie(COOKIE, httponly=True, samesite="lax")
        return response

    def _log_in(request: Request, token: str, after: str) -> Response:
        address = request.client.host if request.client else ""
        if wait_seconds := sessions.wait_seconds(address):
            text = f"Too many attempts; wait {wait_seconds:.0f} s."
            response = _form(text, after, HTTPStatus.TOO_MANY_REQUESTS)
            response.headers["Retry-After"] = f"{wait_seconds:.0f}"
            return response
        cookie = sessions.begin(token, address)
        if cookie is None:
            text = "That is no token with the scope view or operate."
            return _form(text, after, HTTPStatus.FORBIDDEN)
        response = RedirectResponse(after, HTTPStatus.SEE_OTHER)
        response.set_cookie(
            COOKIE,
            cookie,
            httponly=True,
            samesite="lax",
            secure=_is_encrypted(request),
            max_age=int(_LIFE_SECONDS),
        )
        return response

    return router


def _is_encrypted(request: Request) -> bool:
    """Whether the browser uses TLS, to the gateway or to a proxy. A client that forges
    the proxy's header only gets a cookie that its browser sends over TLS alone."""
    said = request.headers.get("x-forwarded-proto", "")
    return "https" in {request.url.scheme, said.split(",")[0].strip().lower()}


def _form(text: str, after: str, status: int = HTTPStatus.OK) -> Response:
    return HTMLResponse(_PAGE.substitute(text=text, after=after), status)


def _local(path: str) -> str:
    """The path if it is a page of this console, else ``/``."""
    is_path = path.startswith("/") and not path.startswith("//") and "\\" not in path
    return quote(path, safe="/?=&") if is_path else "/"


class Guard:
    """Permits access to the console only with a session."""

    def __init__(self, app: ASGIApp, sessions: Sessions) -> None:
        self._app = app
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        headers = Headers(scope=scope)
        is_open = path in OPEN or path.startswith(_PROGRAMS)
        if _is_foreign(scope, headers):
            if scope["type"] == "http":
                text = "Another site may not do this."
                await PlainTextResponse(text, HTTPStatus.FORBIDDEN)(
                    scope, receive, send
                )
            else:
                await send({"type": "websocket.close", "code": 4403})
        elif is_open or self._sessions.client_of(cookie_of(scope)):
            await self._app(scope, receive, _with_headers(send, headers, path))
        elif scope["type"] == "http":
            query = scope["query_string"].decode("latin-1")
            asked = quote(f"{path}?{query}" if query else path)
            answer = RedirectResponse(f"/login?next={asked}", 303)
            await answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 4401})


def _is_foreign(scope: Scope, headers: Headers) -> bool:
    """Whether a page of another origin requests a change or a web socket. Its browser
    sends the cookie even if only the port differs, because cookies ignore ports."""
    # The path of the web socket also serves long polling.
    is_page = not scope["path"].startswith(_SOCKET)
    is_read = scope["type"] == "http" and scope["method"] in {"GET", "HEAD", "OPTIONS"}
    if is_read and is_page:
        return False
    origin = headers.get("origin")
    if origin is None or headers.get("sec-fetch-site") == "same-origin":
        return False  # not a browser, or the same origin
    # A proxy may terminate TLS, so only the host of the origin is compared. A page
    # cannot make a browser send x-forwarded-host to another origin without a CORS
    # preflight.
    ours = {headers.get(name, "").lower() for name in ("host", "x-forwarded-host")}
    return urlsplit(origin).netloc.lower() not in ours - {""}


def cookie_of(scope: Scope) -> str | None:
    """The value of the session's cookie in a request, or None."""
    return HTTPConnection(scope).cookies.get(COOKIE)


def _with_headers(send: Send, request: Headers, path: str) -> Send:
    # in some browsers 'self' does not include web sockets
    host = request.get("host", "")
    sockets = f" ws://{host} wss://{host}" if _HOST.fullmatch(host) else ""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value.format(sockets)
            is_program = path.startswith(_PROGRAMS) and _MADE not in path
            if is_program and message["status"] == HTTPStatus.OK:
                headers["cache-control"] = "public, max-age=31536000, immutable"
        await send(message)

    return send_with_headers
