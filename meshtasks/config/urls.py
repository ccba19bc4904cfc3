"""URLs in configuration: of the broker, of PostgreSQL, and of HTTP services.

``MESH_BROKER_URL`` is one URL, or one for each node of a cluster, separated by ``;`` as
in kombu. Texts of faults number the URLs and do not quote them, because they contain
passwords.
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
        secret: name of the secret: ``n8n`` for ``MESH_SECRETS__N8N``. The secret is
            the whole value of the header, including words such as ``Bearer``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")]
    secret: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$")]


def is_url_text(text: str) -> bool:
    """Whether all characters are allowed in the URL of a request.

    That is printable ASCII without blanks, backslashes and ``#``.
    """
    return bool(re.fullmatch(r"[!-~]+", text)) and not set(text) & {"\\", "#"}


def http_url(text: str, *, expected: str = "an http or https URL") -> str:
    """The text, if it is an http or https URL without user and password.

    Args:
        expected: description of the URL, for the error.

    Raises:
        ValueError: the text is something else; says what was expected.
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
    """Whether a path can be appended to this URL: it is HTTP and has no query."""
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
    """Convert a PostgreSQL URL of libpq to one of SQLAlchemy.

    A URL of libpq may name several servers, each with or without a port, or none
    (https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING).

    Returns:
        The URL; empty if ``text`` is not such a URL.
    """
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
    """Split URLs at ``;``. Missing URLs are empty texts."""
    return tuple(each.strip() for each in text.strip().removesuffix(";").split(";"))


def fault_of(text: str) -> str:
    """What is wrong with the AMQP URLs in ``text``; empty if they are correct."""
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
        # Other programs separate the hosts of a cluster by commas.
        is_server = "," not in (parts.hostname or ",") and parts.port != 0
    except ValueError:
        return False
    return (
        is_server and parts.scheme in {"amqp", "amqps"} and not re.search(r"\s", text)
    )


def _vhost(url: str) -> str:
    return unquote(urlsplit(url).path[1:]) or "/"
