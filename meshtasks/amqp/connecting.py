"""Connections to the broker, and why one could not be opened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import kombu
from amqp.exceptions import AccessRefused, NotAllowed, NotFound

from meshtasks.amqp.nodes import Connection
from meshtasks.config.brokers import fault_of
from meshtasks.errors import ConfigError, Transient

_VARIABLE = "MESH_BROKER_URL"
_CONNECT_TIMEOUT_SECONDS = 5.0


@contextmanager
def connected(url: str) -> Iterator[kombu.Connection]:
    """An open connection, for AMQP operations only; closed at the end.

    Args:
        url: AMQP URL, or those of the nodes of a cluster with ``;`` between them.

    Raises:
        ConfigError: a URL is no AMQP URL, or the broker refuses the account or
            the virtual host.
        Transient: the broker cannot be reached, or the connection was lost.
    """
    with unopened(url) as connection:
        broker = " or ".join(node.name for node in connection.nodes)
        try:
            _open(connection)
            broker = _name(connection)
            yield connection
        except connection.connection_errors as error:
            if isinstance(error, OSError) and connection.connected:
                raise  # of a file or a pipe, say: py-amqp notices its own
            message = f"RabbitMQ at {broker} cannot be reached: {error}"
            raise Transient(message) from error


def missing_queues(url: str, names: Iterable[str]) -> list[str]:
    """Those of these queues that the broker does not have.

    Raises:
        ConfigError: see :func:`connected`.
        Transient: likewise.
    """
    missing = []
    with connected(url) as connection:
        for name in names:
            try:  # on a channel of its own, which a missing queue closes
                connection.channel().queue_declare(name, passive=True)
            except NotFound:
                missing.append(name)
    return missing


def unopened(url: str) -> Connection:
    """A connection that opens on first use; its attributes are the first URL's parts.

    Raises:
        ConfigError: a URL is no AMQP URL.
    """
    if expected := fault_of(url):
        raise ConfigError("environment", _VARIABLE, expected)
    return Connection(url, connect_timeout=_CONNECT_TIMEOUT_SECONDS)


def refusal(
    connection: kombu.Connection, error: AccessRefused | NotAllowed
) -> ConfigError:
    """What the broker's refusal to open a connection means."""
    broker = f"RabbitMQ at {_name(connection)}"
    if isinstance(error, AccessRefused):
        expected = f"{broker} refuses the user {connection.userid!r} or the password"
    else:
        expected = f"{broker} refuses the virtual host: {error.reply_text}"
    return ConfigError("environment", _VARIABLE, expected)


def _open(connection: kombu.Connection) -> None:
    try:
        # by itself kombu would wait two seconds and try again
        connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
    except (AccessRefused, NotAllowed) as error:
        raise refusal(connection, error) from error


def _name(connection: kombu.Connection) -> str:
    return f"{connection.hostname}:{connection.port}"
