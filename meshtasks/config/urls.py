"""URLs in configuration: the broker's, and those of HTTP services, with their secrets.

``MESH_BROKER_URL`` is the broker's URL, or one for each node of its cluster, with ``;``
between them, as kombu has it. Texts of faults count the URLs and quote none: there are
passwords in them.
"""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import unquote, urlsplit

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


_HOST = r"(?:\[[0-9A-Fa-f:.%]+\]|[^\s@/?#:,\[\]]+)(?::\d{1,5})?"
_POSTGRESQL = re.compile(
    r"postgres(?:ql)?(?:\+psycopg)?://"
    rf"(?P<user>[^\s@/?]+@)?(?P<hosts>(?:{_HOST}(?:,{_HOST})*)?)"
    r"/(?P<database>[^\s@/?#]+)(?:\?(?P<query>\S*))?"
)
HIGHEST_PORT = 65_535


def postgresql_url(text: str) -> str:
    """The URL of a PostgreSQL database as SQLAlchemy wants it, of one as libpq takes it
    (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING): with
    several servers, each with its port, or none; empty if it is no such URL."""
    found = _POSTGRESQL.fullmatch(text)
    if found is None:
        return ""
    hosts, query = found["hosts"], found["query"] or ""
    ports = re.findall(r":(\d+)(?=,|$)", hosts)
    if not all(0 < int(port) <= HIGHEST_PORT for port in ports):
        return ""
    if "," in hosts:
        given = [query] if query else []
        query = "&".join([*(f"host={each}" for each in hosts.split(",")), *given])
        hosts = ""
    place = f"{found['user'] or ''}{hosts}/{found['database']}"
    return f"postgresql+psycopg://{place}" + (f"?{query}" if query else "")


EXAMPLE = "amqp://user:password@host:5672/vhost"


def urls_of(text: str) -> tuple[str, ...]:
    """The URLs, in order; one that is missing is an empty text."""
    return tuple(each.strip() for each in text.strip().removesuffix(";").split(";"))


def fault_of(text: str) -> str:
    """What should be right with the URLs and is not; empty if all is well."""
    urls = urls_of(text)
    for number, url in enumerate(urls, start=1):
        if not _is_amqp(url):
            which = "" if len(urls) == 1 else f"URL {number} of {len(urls)}: "
            semicolon = "; ; is %3B" if len(urls) > 1 else ""
            return (
                f"{which}expected a URL such as {EXAMPLE}; special characters of "
                f"user, password and vhost are percent-encoded{semicolon}"
            )
        if _vhost(url) != _vhost(urls[0]):
            return (
                f"URL {number} of {len(urls)}: expected the virtual host of the first, "
                "since all are nodes of one cluster"
            )
    return ""


def _is_amqp(text: str) -> bool:
    try:
        parts = urlsplit(text)
        # a comma is what others have between the hosts of a cluster
        is_server = "," not in (parts.hostname or ",") and parts.port != 0
    except ValueError:
        return False
    return (
        is_server and parts.scheme in {"amqp", "amqps"} and not re.search(r"\s", text)
    )


def _vhost(url: str) -> str:
    return unquote(urlsplit(url).path[1:]) or "/"
