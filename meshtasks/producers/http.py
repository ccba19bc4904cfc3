"""Get a page from the service that a collector looks at."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus, client
from pathlib import Path
from typing import NamedTuple

from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    ReadTimeoutError,
)

from meshtasks.errors import MeshError
from meshtasks.http import Answer, cause_of, pool_manager, request
from meshtasks.text import clip

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
        self._headers = {"Accept-Encoding": "gzip", **(headers or {})}
        self._pool = pool_manager(ca_certs=None if ca_file is None else str(ca_file))

    def get(self, url: str) -> Page:
        """Get a page.

        Raises:
            PageUnavailable: no whole answer in time, or none with status 200.
        """
        try:
            answer = request(
                self._pool,
                "GET",
                url,
                timeout_seconds=self._timeout_seconds,
                headers=self._headers,
                limit_bytes=self._limit_bytes + 1,
                extendable=False,
            )
        except HTTPError as error:
            raise self._unavailable(error) from error
        except ValueError:
            # Not quoted and not chained: it may quote the header with the secret.
            message = "cannot be requested: its URL or a header is not valid"
            raise PageUnavailable(message) from None
        if answer.status != HTTPStatus.OK:
            raise PageUnavailable(_refusal(answer))
        if answer.fault is not None:
            raise self._unavailable(answer.fault) from answer.fault
        if len(answer.body) > self._limit_bytes:
            message = f"answered with more than {self._limit_bytes:,} bytes"
            raise PageUnavailable(message)
        return Page(answer.headers.get("Content-Type", ""), answer.body)

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def _unavailable(self, error: HTTPError) -> PageUnavailable:
        match error:
            case NewConnectionError():  # which is a ConnectTimeoutError too
                message = f"cannot be reached: {cause_of(error)}"
            case ConnectTimeoutError() | ReadTimeoutError():
                message = f"did not answer within {self._timeout_seconds:g} s"
            case _:
                message = clip(f"cannot be read: {error}", _REASON_LIMIT_CHARS)
        return PageUnavailable(message)


def _refusal(answer: Answer) -> str:
    if location := answer.headers.get("Location"):
        hint = f"it points to {clip(location, _REASON_LIMIT_CHARS)}; give that URL"
    else:
        known = client.responses.get(answer.status, "")
        hint = _HINTS.get(answer.status, known)
    return f"answered {answer.status}: {hint}".rstrip(": ")
