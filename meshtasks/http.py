"""HTTP requests with a limit on the time and the size of the whole response.

The read timeout of urllib3 applies to each read, so a server that sends a byte every
second blocks its client forever. Here the timeout applies to the whole response, plus
one second for each 64 KiB of it, which allows for large objects.
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
_MOST_INTERIM_RESPONSES = 100
_SWITCHING_PROTOCOLS = 101

#: Beginning of an HTML page, after comments.
_PAGE = re.compile(
    rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*"
    rb"<(?:!doctype\s+html|html|head|body|title|meta|script|center|h1)\b",
    re.IGNORECASE | re.DOTALL,
)


class Answer(NamedTuple):
    """A response.

    Attributes:
        status: HTTP status.
        headers: response headers; names are case-insensitive.
        body: the body, up to the limit of the request.
        fault: the error that interrupted the body; None if there was none.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    fault: HTTPError | None

    @property
    def whole(self) -> bool:
        """Whether the body was read without an error."""
        return self.fault is None

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")

    @property
    def is_page(self) -> bool:
        """Whether the body is an HTML page, such as that of a proxy or a login.

        ``Content-Type`` is ignored, because many small servers declare any text as
        HTML.
        """
        return _PAGE.match(self.body[:4096].removeprefix(b"\xef\xbb\xbf")) is not None

    @property
    def retry_after_seconds(self) -> float | None:
        """Seconds to wait, from ``Retry-After``; see :func:`retry_after_seconds`."""
        return retry_after_seconds(self.headers.get("Retry-After"))


def pool_manager(proxy_url: str | None = None, **options: Any) -> urllib3.PoolManager:
    """A connection pool whose responses are limited in time.

    Args:
        proxy_url: HTTP proxy to use.
        options: options of ``urllib3.PoolManager``.
    """
    manager = (
        urllib3.ProxyManager(proxy_url, **options)
        if proxy_url
        else urllib3.PoolManager(**options)
    )
    manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
    return manager


def request(  # noqa: PLR0913 - parts of a request
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
    """Make one request, without following redirects and without retries.

    Args:
        pool: connections, from :func:`pool_manager`.
        url: URL; for the pool of one host, the path only.
        timeout_seconds: limit for the whole response.
        limit_bytes: reading stops once the body has this size.
        extendable: whether each 64 KiB of the response extends the limit by a second.

    Raises:
        HTTPError: the request failed, or no headers arrived in time. An error in the
            body does not raise; it is the ``fault`` of the answer.
    """
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
                response.release_conn()  # the body is complete: reuse the connection
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
    """The system's or TLS's error behind an error of urllib3, else ``error`` itself.

    Its text is shorter and more precise.
    """
    match error:
        case NewConnectionError(__cause__=Exception() as cause):
            return cause
        case SSLError(args=(Exception() as cause, *_)):
            return cause
        case _:
            return error


def retry_after_seconds(value: str | None) -> float | None:
    """Seconds to wait, at most five minutes, from a ``Retry-After`` header.

    The value is a number of seconds or a date (RFC 9110, section 10.2.3). None if the
    header is missing or invalid.
    """
    if not value:
        return None
    try:
        wait = urllib3.Retry().parse_retry_after(value)
    except (HTTPError, ValueError, OverflowError):
        return None
    return min(wait, LONGEST_ASKED_SECONDS)


class _InTime(io.RawIOBase):
    """The bytes of a socket until a deadline, which each byte extends a little.

    Attributes:
        has_ended: whether the end of the stream has been read.
    """

    def __init__(self, file: Any, sock: Any) -> None:
        self._file = file
        self._sock = sock
        self.has_ended = False
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
        self.has_ended = not count
        self._deadline += count / _BYTES_A_SECOND
        return count

    @override
    def close(self) -> None:
        self._file.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._source = _InTime(self.fp.detach(), sock)
        self.fp = io.BufferedReader(self._source)

    @override
    def begin(self) -> None:
        """Read status and headers, up to the empty line after them.

        http.client takes the end of the stream for the end of the headers, too. But the
        status of a response that breaks off is no success, and a missing header may be
        the length of its body.
        """
        super().begin()
        if self._source.has_ended:
            message = "the response broke off within its headers"
            raise http.client.HTTPException(message)

    def _read_status(self) -> tuple[str, int, str]:
        """Read the status of the final response (RFC 9110, section 15.2).

        http.client skips interim responses of status 100 only, and without an end. It
        would take another for the final one, and that one for the answer to the next
        request.
        """
        for _ in range(_MOST_INTERIM_RESPONSES):
            status: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
            if not 100 <= status[1] < 200 or status[1] == _SWITCHING_PROTOCOLS:  # noqa: PLR2004 - the interim ones
                return status
            http.client.parse_headers(self.fp)
        message = "interim responses without a final one"
        raise http.client.HTTPException(message)


class _HTTPConnection(HTTPConnection):
    response_class = _Response


class _HTTPSConnection(HTTPSConnection):
    response_class = _Response


class _HTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


def mend_urllib3() -> None:
    """Let all clients of urllib3 in this process read responses as :func:`request`
    does; for a library that makes its own requests."""
    urllib3.HTTPConnectionPool.ConnectionCls = _HTTPConnection
    urllib3.HTTPSConnectionPool.ConnectionCls = _HTTPSConnection
