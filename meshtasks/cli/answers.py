"""Answers of ``meshtasks init``: from options, from a terminal, or defaults."""

from __future__ import annotations

import ipaddress
import re
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import typer

from meshtasks.config.urls import is_base_url

_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.(?!-)[A-Za-z0-9_-]{1,63})*")
_PORT = re.compile(r":\d{1,5}")
#: Values that python-dotenv, docker compose and systemd read alike without quotes.
_PLAIN = re.compile(r"[\w@%+=:,./\[\]-]*")
#: Values that they read alike in single quotes.
_QUOTABLE = re.compile(r"(?:[^'\\\n\r$]|\$(?!\{))*")
#: Addresses for documentation (RFC 5737, RFC 3849). A UDP socket "connected" to one has
#: the local address of the default route; nothing is sent.
_OUTSIDE = (
    (socket.AF_INET, "192.0.2.1"),
    (socket.AF_INET6, "2001:db8::1"),
)

Check = Callable[[str], str]


class Answers:
    """Values of variables. A variable that is in .env keeps its value.

    Args:
        known: the variables in .env.

    Attributes:
        values: values by variable, without empty ones.
        unchanged: variables whose option differs from .env.
    """

    def __init__(self, known: Mapping[str, str]) -> None:
        """Start without values."""
        self._known = known
        self._is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
        self.values: dict[str, str] = {}
        self.unchanged: list[str] = []

    def get(
        self,
        variable: str,
        given: str | None,
        check: Check,
        default: str,
        prompt: str = "",
    ) -> None:
        """Determine the value of a variable, and add it to :attr:`values`.

        Args:
            variable: name of the variable.
            given: value of the option; None without the option.
            check: validates a value and returns it as it is to be written.
            default: value without an option and an answer; empty for none.
            prompt: text of the question on a terminal; empty for no question.

        Raises:
            typer.BadParameter: the value of the option is invalid.
        """
        if variable in self._known:
            if given is not None and given != self._known[variable]:
                self.unchanged.append(variable)
            self.values[variable] = self._known[variable]
            return

        def checked(text: str) -> str:
            value = text.strip()
            value = check(value) if value else ""
            _ = quoted(value)
            return value

        if given is not None:
            try:
                value = checked(given)
            except typer.BadParameter as fault:
                fault.param_hint = variable
                raise
        elif self._is_terminal and prompt:
            value = typer.prompt(prompt, default=default, value_proc=checked)
        else:
            value = default
        if value:
            self.values[variable] = value


def quoted(value: str) -> str:
    """A value as it is written to .env, in quotes if necessary.

    Raises:
        typer.BadParameter: programs would read the value differently.
    """
    if _PLAIN.fullmatch(value):
        return value
    if _QUOTABLE.fullmatch(value):
        return f"'{value}'"
    message = "expected no quotation marks, backslashes, line breaks and ${ in it"
    raise typer.BadParameter(message)


def host(text: str) -> str:
    """A name or an address as in a URL: an IPv6 address is in brackets.

    Raises:
        typer.BadParameter: the text is neither a name nor an address.
    """
    bare = text.removeprefix("[").removesuffix("]")
    with suppress(ValueError):
        address = ipaddress.ip_address(bare)
        if getattr(address, "scope_id", None) is None:
            is_long = isinstance(address, ipaddress.IPv6Address)
            return f"[{address}]" if is_long else str(address)
    if _HOST_NAME.fullmatch(text):
        return text
    message = f"expected a name or an address such as 192.168.1.5, not {text!r}"
    raise typer.BadParameter(message)


def _check(is_good: Callable[[str], bool], expected: str) -> Check:
    """Make a check that returns a valid text unchanged."""

    def check(text: str) -> str:
        if is_good(text):
            return text
        message = f"expected {expected}, not {text!r}"
        raise typer.BadParameter(message)

    return check


def _is_archive(url: str) -> bool:
    scheme, _, place = url.partition("://")
    return (scheme == "file" and Path(place).is_absolute()) or (
        scheme == "s3" and bool(place)
    )


_A_URL = "a URL such as http://192.168.1.5:8086"
base_url = _check(is_base_url, _A_URL)
#: Check of the URL of Home Assistant, or of its websocket.
home_assistant_url = _check(
    lambda text: is_base_url(re.sub(r"^ws(?=s?://)", "http", text)), _A_URL
)
#: Check of ``HOST:PORT`` or a URL.
host_and_port = _check(
    lambda text: is_base_url(text if "://" in text else f"http://{text}"),
    "a host and a port such as 127.0.0.1:8000",
)
archive_url = _check(_is_archive, "file:///directory or s3://bucket")


def own_address() -> str:
    """The address of this machine in its network, as in a URL."""
    for family, outside in _OUTSIDE:
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((outside, 9))
            return host(probe.getsockname()[0])
    return "127.0.0.1"
