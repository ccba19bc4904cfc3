"""Every error of the gateway is a problem detail (RFC 9457)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

import amqp
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from meshtasks.errors import (
    PublishRefused,
    PublishUnconfirmed,
    SinkUnavailable,
    Transient,
    Unroutable,
)
from meshtasks.records.models import faults
from meshtasks.text import printable

#: ``Retry-After`` of a response while the broker or the state is unavailable.
_RETRY_AFTER_SECONDS = 5
#: Most errors in a response, so that a short request cannot cause a long response.
MOST_ERRORS = 100


class FieldError(NamedTuple):
    """A fault at one location of a request.

    Attributes:
        pointer: JSON pointer into the body, as a URI fragment (RFC 6901).
        detail: what is wrong, as text for people.
    """

    pointer: str
    detail: str


class Problem(Exception):
    """An error that the gateway returns for a request.

    Args:
        status: HTTP status of the response.
        detail: what went wrong, and what to do.
        errors: faults of fields; the response has the first :data:`MOST_ERRORS`.
        headers: additional headers of the response.
    """

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = headers

    @property
    def sentence(self) -> str:
        """The response in one sentence, with the first error."""
        first = ": ".join(self.errors[0]) if self.errors else self.detail
        return f"the gateway answered {self.status.value}: {first}"

    @property
    def response(self) -> JSONResponse:
        """The response. Text that could control a terminal is escaped."""
        content: dict[str, Any] = {
            "type": "about:blank",
            "title": self.status.phrase,
            "status": self.status.value,
            "detail": printable(self.detail),
        }
        if self.errors:
            content["errors"] = [
                {name: printable(text) for name, text in each._asdict().items()}
                for each in self.errors[:MOST_ERRORS]
            ]
        return JSONResponse(
            content,
            self.status.value,
            self.headers,
            media_type="application/problem+json",
        )


class _FieldErrorModel(BaseModel):
    pointer: str
    detail: str


class _ProblemModel(BaseModel):
    type: str
    title: str
    status: int
    detail: str
    errors: list[_FieldErrorModel] = []


#: Error statuses of requests that publish a message.
OF_SUBMITTING = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


def documented(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route for these error statuses, for OpenAPI."""
    schema = _ProblemModel.model_json_schema(
        ref_template="#/components/schemas/{model}"
    )
    del schema["$defs"]
    schema["title"] = "Problem"
    schema["properties"]["errors"]["items"] = _FieldErrorModel.model_json_schema()
    content = {"application/problem+json": {"schema": schema}}
    return {
        status.value: {"description": status.phrase, "content": content}
        for status in statuses
    }


def example(**members: Any) -> ConfigDict:
    """The configuration of a model, with an example that OpenAPI shows."""
    return ConfigDict(json_schema_extra={"examples": [members]})


def pointer(place: Sequence[str | int]) -> str:
    """The JSON pointer of a location: ``#/a/0`` for ``("a", 0)``."""
    escaped = (str(each).replace("~", "~0").replace("/", "~1") for each in place)
    return "".join(["#", *(f"/{each}" for each in escaped)])


def too_many(wait_seconds: float) -> Problem:
    """The problem of a client that exceeds its rate."""
    return Problem(
        HTTPStatus.TOO_MANY_REQUESTS,
        f"Too many requests with this token; wait {wait_seconds:.1f} s.",
        headers={"Retry-After": str(math.ceil(wait_seconds))},
    )


def too_large(limit_bytes: int) -> Problem:
    """The problem of a body over the limit; closes the connection, as the rest of the
    body is not read."""
    return Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"The body has more than {limit_bytes} bytes.",
        headers={"Connection": "close"},
    )


def too_slow(limit_seconds: float) -> Problem:
    """The problem of a body that did not arrive in time; closes the connection."""
    return Problem(
        HTTPStatus.REQUEST_TIMEOUT,
        f"The body did not arrive within {limit_seconds:g} s.",
        headers={"Connection": "close"},
    )


def install(app: FastAPI) -> None:
    """Make the application return a problem for every error."""

    async def answer(_request: Request, error: Exception) -> JSONResponse:
        return _problem_of(error).response

    for kind in (
        Problem,
        HTTPException,
        RequestValidationError,
        Unroutable,
        Transient,
        Exception,
    ):
        app.add_exception_handler(kind, answer)


def _problem_of(error: Exception) -> Problem:
    match error:
        case Problem():
            problem = error
        case HTTPException():
            status = HTTPStatus(error.status_code)
            problem = Problem(status, f"{error.detail}.", headers=error.headers)
        case RequestValidationError():
            errors = [
                FieldError(pointer(each.place[1:]), each.reason)
                for each in faults(error.errors())
            ]
            detail = "The request does not fit; see errors."
            problem = Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, errors)
        case Unroutable():
            problem = Problem(HTTPStatus.NOT_FOUND, f"Not published: {error}.")
        case PublishRefused():
            is_forbidden = isinstance(error.__cause__, amqp.AccessRefused)
            problem = Problem(
                HTTPStatus.FORBIDDEN
                if is_forbidden
                else HTTPStatus.UNPROCESSABLE_ENTITY,
                f"The broker refuses it: {error}",
            )
        case PublishUnconfirmed():
            problem = _unavailable(
                f"Not confirmed by the broker, so try again: {error}"
            )
        case SinkUnavailable():
            problem = _unavailable(f"The gateway's own state cannot be used: {error}")
        case Transient():
            problem = _unavailable(str(error))
        case _:
            detail = "A fault of the gateway; its log says more."
            problem = Problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail)
    return problem


def _unavailable(detail: str) -> Problem:
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        detail,
        headers={"Retry-After": str(_RETRY_AFTER_SECONDS)},
    )
