"""Get a page from the service that a collector looks at."""

from __future__ import annotations

import time
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    ReadTimeoutError,
)

from meshtasks.errors import MeshError
from meshtasks.text import clip

_CHUNK_BYTES = 64 * 1024
_REASON_LIMIT_CHARS = 200

_HINTS: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: "it wants a secret; see auth",
    HTTPStatus.FORBIDDEN: "it wants another secret; see auth",
    HTTPStatus.NOT_FOUND: "is the path right?",
}


class PageUnavailable(MeshError):
    """A service did not give the page."""


class Page(NamedTuple):
    """What a service answered with status 200."""

    content_type: str
    body: bytes


class Client:
    """Gets pages with HTTP; for one thread at a time. Redirects are not followed,
    since the secret is not for the page behind one.

    Args:
        timeout_seconds: longest time until the last byte of an answer.
        limit_bytes: a longer page, unpacked, is refused.
        ca_file: certificates (PEM) that TLS servers are known by; the system's when
            not given.
    """

    def __init__(
        self,
        timeout_seconds: float,
        limit_bytes: int,
        *,
        headers: Mapping[str, str] | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._limit_bytes = limit_bytes
        self._http = urllib3.PoolManager(
            headers={"Accept-Encoding": "gzip", **(headers or {})},
            retries=False,
            timeout=urllib3.Timeout(total=timeout_seconds),
            ca_certs=None if ca_file is None else str(ca_file),
        )

    def get(self, url: str) -> Page:
        """Get a page.

        Raises:
            PageUnavailable: no whole answer in time, or none with status 200.
        """
        deadline = time.monotonic() + self._timeout_seconds
        try:
            response = self._http.request(
                "GET", url, preload_content=False, redirect=False
            )
            # Leaving early closes the connection; what is left of a page must not
            # wait in it for the next one's reader.
            with response:
                body = self._body(response, deadline)
        except NewConnectionError as error:  # which is a ConnectTimeoutError too
            message = f"cannot be reached: {error.__cause__ or error}"
            raise PageUnavailable(message) from error
        except (ConnectTimeoutError, ReadTimeoutError) as error:
            raise PageUnavailable(self._too_late) from error
        except HTTPError as error:
            message = clip(f"cannot be read: {error}", _REASON_LIMIT_CHARS)
            raise PageUnavailable(message) from error
        except ValueError:
            # Not quoted and not chained: it may quote the header with the secret.
            message = "cannot be requested: its URL or a header is not valid"
            raise PageUnavailable(message) from None
        return Page(response.headers.get("Content-Type", ""), body)

    def close(self) -> None:
        """Close the connections."""
        self._http.clear()

    @property
    def _too_late(self) -> str:
        return f"did not answer within {self._timeout_seconds:g} s"

    def _body(self, response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
        if response.status != HTTPStatus.OK:
            raise PageUnavailable(_refusal(response))
        body = bytearray()
        # Not read(), which would wait for more as long as any byte comes in time.
        while chunk := response.read1(_CHUNK_BYTES, decode_content=True):
            body += chunk
            if len(body) > self._limit_bytes:
                message = f"answered with more than {self._limit_bytes:,} bytes"
                raise PageUnavailable(message)
            if time.monotonic() > deadline:
                raise PageUnavailable(self._too_late)
        return bytes(body)


def _refusal(response: urllib3.BaseHTTPResponse) -> str:
    if location := response.headers.get("Location"):
        hint = f"it points to {clip(location, _REASON_LIMIT_CHARS)}; give that URL"
    else:
        hint = _HINTS.get(response.status, response.reason or "")
    return f"answered {response.status}: {hint}".rstrip(": ")
