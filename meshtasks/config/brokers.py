"""``MESH_BROKER_URL``: the broker's URL, or one for each node of its cluster.

Several stand with ``;`` between them, as kombu has it. Texts of faults count the URLs
and quote none: there are passwords in them.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

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
        is_server = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return (
        is_server and parts.scheme in {"amqp", "amqps"} and not re.search(r"\s", text)
    )


def _vhost(url: str) -> str:
    return unquote(urlsplit(url).path[1:]) or "/"
