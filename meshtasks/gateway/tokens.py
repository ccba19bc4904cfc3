"""Who may do what: bearer tokens with scopes, from ``MESH_API_TOKENS``."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import get_args

from meshtasks.errors import ConfigError
from meshtasks.flows.command import Scope

_VARIABLE = "MESH_API_TOKENS"
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
#: Long enough that nobody guesses it: 128 random bits are 22 characters of base64.
_SHORTEST_TOKEN = 22
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")  # RFC 6750, section 2.1
_EXAMPLE = "n8n:publish+trigger:TOKEN"
_HINT = 'make one with: python3 -c "import secrets; print(secrets.token_urlsafe(32))"'


@dataclass(frozen=True, slots=True)
class Client:
    """Somebody with a token.

    Attributes:
        name: in logs, metrics and the history of alerts.
        scopes: what it may do.
    """

    name: str
    scopes: frozenset[Scope]


class Tokens:
    """The tokens, of which only digests are kept.

    Args:
        text: entries ``name:scope+scope:token``, one a line or separated by commas.

    Raises:
        ConfigError: there is none, or an entry is wrong; it is named by its place,
            never quoted.
    """

    def __init__(self, text: str) -> None:
        self._clients: list[tuple[bytes, Client]] = []
        entries = [each for each in re.split(r"[,\s]+", text) if each]
        if not entries:
            expected = (
                f"expected at least one token, as {_EXAMPLE}; there is none to begin "
                f"with, so {_HINT}"
            )
            raise ConfigError("environment", _VARIABLE, expected)
        for place, entry in enumerate(entries, start=1):
            client, token = _parsed(place, entry)
            if client.name in {known.name for _, known in self._clients}:
                raise _wrong(place, f"the name {client.name} is given twice")
            self._clients.append((_digest(token), client))

    def client_of(self, token: str) -> Client | None:
        """Whose token this is; None if it is nobody's.

        Every known token is compared, each in a time that does not depend on how
        much of it is right.
        """
        digest, found = _digest(token), None
        for known, client in self._clients:
            if hmac.compare_digest(known, digest):
                found = client
        return found


def _parsed(place: int, entry: str) -> tuple[Client, str]:
    name, _, rest = entry.partition(":")
    scopes, _, token = rest.partition(":")
    if not token or not _NAME.fullmatch(name):
        raise _wrong(place, f"expected {_EXAMPLE}, the name in small letters")
    known: tuple[Scope, ...] = get_args(Scope)
    given = set(scopes.split("+"))
    if not given <= set(known):
        raise _wrong(place, f"the scopes of {name} should be of {', '.join(known)}")
    if len(token) < _SHORTEST_TOKEN or not _TOKEN.fullmatch(token):
        reason = (
            f"the token of {name} should be {_SHORTEST_TOKEN} or more letters, digits "
            f"and . _ ~ + / = -; {_HINT}"
        )
        raise _wrong(place, reason)
    return Client(name, frozenset(each for each in known if each in given)), token


def _wrong(place: int, reason: str) -> ConfigError:
    return ConfigError("environment", _VARIABLE, f"entry {place}: {reason}")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
