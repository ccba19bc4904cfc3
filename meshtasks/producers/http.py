"""HTTP client of the collectors."""

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
    """The service did not return the page."""


class Page(NamedTuple):
    """A response with status 200."""

    content_type: str
    body: bytes


class Client:
    """Gets pages over HTTP; not thread-safe.

    Redirects are not followed, because the secret must not go to another address.

    Args:
        timeout_seconds: for the whole response.
        limit_bytes: limit of the uncompressed page; a larger one is refused.
        headers: sent with each request, such as the secret.
        ca_file: PEM certificates that verify TLS servers; by default the system's.
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
        """Return the page at ``url``.

        Raises:
            PageUnavailable: the response is not complete in time, is larger than the
                limit, or does not have status 200.
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
            # Neither quoted nor chained: the text may contain the header's secret.
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
            case NewConnectionError():  # a subclass of ConnectTimeoutError
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
