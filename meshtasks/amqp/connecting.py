"""Connections to any node of the broker's cluster, and the errors if none responds.

kombu tries the next URL only when it is told to retry, and uses port, virtual host and
TLS options of the first URL if the next has none. Here every attempt to connect tries
all nodes, from left to right, nodes that failed recently last. So an attempt fails only
if all nodes fail.

Each address of a host name counts as a node, because the first node that accepts a TCP
connection may be frozen or stopping, and not respond.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import kombu
from amqp.exceptions import AccessRefused, NotAllowed, NotFound
from kombu.utils.url import parse_url
from typing_extensions import override

from meshtasks.config.certificates import tls_fault
from meshtasks.config.urls import fault_of, urls_of
from meshtasks.errors import ConfigError, Transient

_PORT, AMQPS_PORT = 5672, 5671
#: How long a node that failed is tried after the others.
_FAILED_SECONDS = 30.0

#: Last failure (monotonic seconds) of each node in this process, by host or address and
#: port.
_failed_at: dict[tuple[str, int], float] = {}


class Node(NamedTuple):
    """The parts of one URL.

    Attributes:
        host: name or address.
        port: port of AMQP.
        options: kombu's options: user, password, virtual host, transport, TLS.
    """

    host: str
    port: int
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """``host:port``."""
        return f"{self.host}:{self.port}"

    @property
    def addresses(self) -> list[str]:
        """Addresses of the host, if its name has several; else the host only. If the
        name is unknown, connecting will raise the error."""
        with suppress(ValueError):
            ipaddress.ip_address(self.host)
            return [self.host]
        if self.host == "localhost":  # kombu takes 127.0.0.1
            return [self.host]
        found: list[str] = []
        with suppress(OSError, UnicodeError):
            entries = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
            found = [str(entry[4][0]) for entry in entries]
        found = list(dict.fromkeys(found))
        return found if len(found) > 1 else [self.host]


def node_of(url: str) -> Node:
    """Parse a URL; missing parts get defaults, not the values of another URL."""
    parts = parse_url(url)
    tls = parts["transport"] == "amqps"
    host = parts.pop("hostname") or "localhost"
    port = parts.pop("port") or (AMQPS_PORT if tls else _PORT)
    parts["virtual_host"] = parts["virtual_host"] or "/"
    # by default the host name in the certificate is not checked
    parts["ssl"] = tls and {"server_hostname": host, **(parts.get("ssl") or {})}
    return Node(host, port, parts)


class Connection(kombu.Connection):  # type: ignore[misc]  # kombu ships no types
    """kombu's connection, which connects to any of its nodes.

    Its attributes are those of the connected node, or of the last that failed.

    Args:
        hostname: AMQP URL, or several separated by ``;``. Celery and kombu also copy
            connections by passing their attributes.
    """

    def __init__(self, hostname: str = "localhost", *args: Any, **kwargs: Any) -> None:
        if hostname and "://" in hostname:
            kwargs["alternates"] = [*urls_of(hostname)]
            hostname = kwargs["alternates"][0]
        super().__init__(hostname, *args, **kwargs)
        self.cycle = None  # kombu must not iterate over the URLs as well
        self.nodes = tuple(map(node_of, self.alt))
        self._address = hostname
        if self.nodes:
            self._turn_to(self.nodes[0])

    @override
    def completes_cycle(self, retries: int) -> bool:
        """Whether all nodes have been tried: true after every attempt."""
        return True

    @override
    def _establish_connection(self) -> Any:
        """Connect to a node.

        Raises:
            amqp.exceptions.AccessRefused, NotAllowed: no node accepts the connection,
                and one refuses the account or the virtual host.
            OSError: no node responds; the text has the error of each.
            Exception: the error of the only node.
        """
        ways = ((node, address) for node in self.nodes for address in node.addresses)
        faults: list[tuple[Node, Exception]] = []
        for node, address in sorted(ways, key=_has_failed):
            self._turn_to(node)
            self.hostname = self._address = address
            try:
                connection = super()._establish_connection()
            except (*self.connection_errors, AccessRefused, NotAllowed) as error:
                self.distrust()
                faults.append((node, _in_words(error)))
            else:
                _failed_at.pop((address, node.port), None)
                return connection
            finally:
                self.hostname = node.host
        for node, fault in faults:
            if isinstance(fault, AccessRefused | NotAllowed):
                self._turn_to(node)  # the error's text names the current node
                raise fault
        if len(faults) == 1:
            raise faults[0][1]
        raise OSError("; ".join(f"{node.name}: {fault}" for node, fault in faults))

    def open_once(self) -> None:
        """Connect, one attempt; kombu by default waits two seconds and retries.

        Raises the same as :meth:`_establish_connection`.
        """
        self.ensure_connection(max_retries=0, reraise_as_library_errors=False)

    def distrust(self) -> None:
        """Try other nodes first for a while: this one responds, but does not work."""
        _failed_at[self._address, self.port] = time.monotonic()

    def _turn_to(self, node: Node) -> None:
        self._do_close_transport()  # kombu caches it; the next may use TLS or not
        self.hostname, self.port = node.host, node.port
        options = node.options
        self.userid, self.password = options["userid"], options["password"]
        self.virtual_host = options["virtual_host"]
        self.ssl, self.transport_cls = options["ssl"], options["transport"]


def _in_words(fault: Exception) -> Exception:
    """A TLS error with advice; any other error unchanged."""
    if not isinstance(fault, ssl.SSLError):
        return fault
    said = ConnectionError(tls_fault(fault))
    said.__cause__ = fault
    return said


def _has_failed(way: tuple[Node, str]) -> bool:
    node, address = way
    failed_at = _failed_at.get((address, node.port))
    return failed_at is not None and time.monotonic() - failed_at < _FAILED_SECONDS


_VARIABLE = "MESH_BROKER_URL"
CONNECT_TIMEOUT_SECONDS = 5.0


@contextmanager
def connected(url: str) -> Iterator[kombu.Connection]:
    """An open connection; closed at the end of the block. Use it for AMQP only.

    Args:
        url: AMQP URL, or those of a cluster's nodes, separated by ``;``.

    Raises:
        ConfigError: a URL is not an AMQP URL, or the broker refuses the account or
            the virtual host.
        Transient: the broker is unreachable, or the connection was lost.
    """
    with unopened(url) as connection:
        broker = " or ".join(node.name for node in connection.nodes)
        try:
            _open(connection)
            broker = _name(connection)
            yield connection
        except connection.connection_errors as error:
            if isinstance(error, OSError) and connection.connected:
                raise  # not AMQP's, but of a file or a pipe in the block
            message = f"RabbitMQ at {broker} cannot be reached: {error}"
            raise Transient(message) from error


def missing_queues(url: str, names: Iterable[str]) -> list[str]:
    """The queues among ``names`` that the broker does not have.

    Raises the same as :func:`connected`.
    """
    wanted = list(names)
    with connected(url) as connection:
        found = depths_of(connection, wanted)
    return [name for name in wanted if name not in found]


def unopened(url: str) -> Connection:
    """A connection that opens on first use. Until then its attributes are the parts of
    the first URL.

    Raises:
        ConfigError: a URL is not an AMQP URL.
    """
    if expected := fault_of(url):
        raise ConfigError("environment", _VARIABLE, expected)
    return Connection(url, connect_timeout=CONNECT_TIMEOUT_SECONDS)


def refusal(
    connection: kombu.Connection, error: AccessRefused | NotAllowed
) -> ConfigError:
    """The error for a connection that the broker refused."""
    broker = f"RabbitMQ at {_name(connection)}"
    if isinstance(error, AccessRefused):
        expected = f"{broker} refuses the user {connection.userid!r} or the password"
    else:
        expected = f"{broker} refuses the virtual host: {error.reply_text}"
    return ConfigError("environment", _VARIABLE, expected)


def _open(connection: Connection) -> None:
    try:
        connection.open_once()
    except (AccessRefused, NotAllowed) as error:
        raise refusal(connection, error) from error


def _name(connection: kombu.Connection) -> str:
    return f"{connection.hostname}:{connection.port}"


class Depth(NamedTuple):
    """Number of messages that are ready in a queue, and number of its consumers."""

    ready: int
    consumers: int


def depths_of(connection: kombu.Connection, names: Iterable[str]) -> dict[str, Depth]:
    """The depths of these queues; queues that the broker does not have are left out."""
    depths: dict[str, Depth] = {}
    channel = connection.channel()
    for name in names:
        try:
            answer = channel.queue_declare(name, passive=True)
        except NotFound:  # which closes the channel
            channel = connection.channel()
        else:
            depths[name] = Depth(answer.message_count, answer.consumer_count)
    channel.close()
    return depths
