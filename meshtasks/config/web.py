"""HTTP services in configuration files: their URLs, and the secrets they ask for."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Auth(BaseModel):
    """How requests are authenticated: a header with a secret.

    Attributes:
        header: name of the header.
        secret: name of its value, ``Bearer`` and the like included: ``n8n`` is that
            of ``MESH_SECRETS__N8N``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")]
    secret: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$")]


def is_url_text(text: str) -> bool:
    """Whether there is nothing in it that no URL may have, or no request."""
    return bool(re.fullmatch(r"[!-~]+", text)) and not set(text) & {"\\", "#"}


def http_url(text: str, *, expected: str = "an http or https URL") -> str:
    """The text, if it is an http or https URL without a password.

    Raises:
        ValueError: it is not; with what was expected.
    """
    if not is_url_text(text):
        message = "expected a URL without spaces, backslashes and #"
        raise ValueError(message)
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
        message = f"expected {expected}"
        raise ValueError(message)
    if "@" in parts.netloc:
        message = "expected no user and password in a URL; a secret belongs in auth"
        raise ValueError(message)
    return text


def is_base_url(text: str) -> bool:
    """Whether paths may be put behind this URL."""
    try:
        return "?" not in http_url(text)
    except ValueError:
        return False


HttpUrl = Annotated[str, AfterValidator(http_url)]
