"""HTTP requests whose answers are bounded in time and size, whatever the server does.

urllib3 limits how long each read may take, so a server that sends a byte a second
holds its client for ever. Here the read timeout is that of the whole answer, with a
second more for each 64 KiB of it, so that large objects may come.
"""

from __future__ import annotations

import http.client
import io
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import urllib3
from typing_extensions import override
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NewConnectionError, ReadTimeoutError, SSLError

from meshtasks.timing import LONGEST_ASKED_SECONDS

CONNECT_TIMEOUT_SECONDS = 3.0

_BYTES_A_SECOND = 64 << 10
_CHUNK_BYTES = 64 << 10
_ANSWER_LIMIT_BYTES = 8 << 20

#: The beginning of an HTML page, without comments.
_PAGE = re.compile(
    rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*"
    rb"<(?:!doctype\s+html|html|head|body|title|meta|script|center|h1)\b",
    re.IGNORECASE | re.DOTALL,
)


class Answer(NamedTuple):
    """An answer: of its body so much as was asked for; ``fault`` if it broke off."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    fault: HTTPError | None

    @property
    def whole(self) -> bool:
        """Whether it came to its end."""
        return self.fault is None

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")

    @property
    def is_page(self) -> bool:
        """Whether it is an HTML page: of a proxy, a portal, a login. The header does
        not decide: many a small server calls every text HTML."""
        return _PAGE.match(self.body[:4096].removeprefix(b"\xef\xbb\xbf")) is not None

    @property
    def retry_after_seconds(self) -> float | None:
        """Seconds to wait, from the header ``Retry-After``; None without it."""
        return retry_after_seconds(self.headers.get("Retry-After"))


def pool_manager(proxy_url: str | None = None, **options: Any) -> urllib3.PoolManager:
    """Connections whose answers are bounded in time; options as of ``PoolManager``."""
    manager = (
        urllib3.ProxyManager(proxy_url, **options)
        if proxy_url
        else urllib3.PoolManager(**options)
    )
    manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
    return manager


def request(  # noqa: PLR0913 - what a request has
    pool: urllib3.PoolManager | urllib3.HTTPConnectionPool,
    method: str,
    url: str,
    *,
    timeout_seconds: float,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    limit_bytes: int = _ANSWER_LIMIT_BYTES,
    extendable: bool = True,
) -> Answer:
    """One request, without following redirects; ``timeout_seconds`` is for all of the
    answer, and if it is ``extendable``, a second more for each 64 KiB. The pool of one
    host takes the path alone. Raises HTTPError if there was none in time."""
    connect_seconds = min(CONNECT_TIMEOUT_SECONDS, timeout_seconds)
    timeout = urllib3.Timeout(connect=connect_seconds, read=timeout_seconds)
    response = pool.urlopen(
        method,
        url,
        body=body,
        headers=headers,
        timeout=timeout,
        retries=False,
        redirect=False,
        preload_content=False,
    )
    content, fault = bytearray(), None
    ends_at = float("inf") if extendable else time.monotonic() + timeout_seconds
    try:
        while len(content) < limit_bytes:
            chunk = response.read1(_CHUNK_BYTES)
            if not chunk:
                response.release_conn()  # read to its end: to be used again
                break
            content += chunk
            if time.monotonic() > ends_at:
                message = "the answer took too long"
                raise ReadTimeoutError(pool, url, message)  # type: ignore[arg-type]
    except HTTPError as error:
        fault = error
    finally:
        response.close()
    return Answer(response.status, response.headers, bytes(content), fault)


def cause_of(error: HTTPError) -> Exception:
    """The system's own error behind one of urllib3, which says more with fewer words:
    the connection's, or that of TLS."""
    match error:
        case NewConnectionError(__cause__=Exception() as cause):
            return cause
        case SSLError(args=(Exception() as cause, *_)):
            return cause
        case _:
            return error


def retry_after_seconds(value: str | None) -> float | None:
    """Seconds to wait, five minutes at most, from the header ``Retry-After``: seconds
    or a date (RFC 9110, section 10.2.3). None where it is missing or neither."""
    if not value:
        return None
    try:
        wait = urllib3.Retry().parse_retry_after(value)
    except (HTTPError, ValueError, OverflowError):
        return None
    return min(wait, LONGEST_ASKED_SECONDS)


class _InTime(io.RawIOBase):
    """A socket's bytes until a deadline, which moves a little with each byte."""

    def __init__(self, file: Any, sock: Any) -> None:
        self._file = file
        self._sock = sock
        self._deadline = time.monotonic() + (sock.gettimeout() or float("inf"))

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            message = "the answer took too long"
            raise TimeoutError(message)
        if left < float("inf"):
            self._sock.settimeout(left)
        count = int(self._file.readinto(buffer) or 0)
        self._deadline += count / _BYTES_A_SECOND
        return count

    @override
    def close(self) -> None:
        self._file.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_InTime(self.fp.detach(), sock))


class _HTTPConnection(HTTPConnection):
    response_class = _Response


class _HTTPSConnection(HTTPSConnection):
    response_class = _Response


class _HTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection
