"""All uses of undocumented parts of py-amqp and of kombu's transport for it.

Two uses are elsewhere: the connection class of kombu's transports
(:mod:`meshtasks.amqp.receiving`), and kombu's table of transports
(``meshtasks/amqp/__init__.py``, which imports almost nothing).

``tests/unit/test_pyamqp_internals.py`` tests each of them with the installed py-amqp,
so a release that changes one of them fails there first.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from struct import Struct
from typing import Any

from amqp import Message as _Message
from amqp import spec
from amqp.serialization import dumps, loads
from amqp.transport import SSLTransport
from kombu.transport import pyamqp

__all__ = ["dumps", "spec"]

#: Names and types (py-amqp's letters) of the properties of a message, in the order of
#: their flags.
PROPERTY_TYPES: list[tuple[str, str]] = _Message.PROPERTIES

_METHOD_ID = Struct(">HH")
#: Most bytes of one read from the socket; and the number below which the socket is
#: assumed to be empty after a read.
_READ_BYTES, _FEW_BYTES = 65_536, 4_096


class BaseConnection(pyamqp.Connection):  # type: ignore[misc]  # kombu ships no types
    """py-amqp's connection, for a subclass that reads the frames itself and overrides
    ``blocking_read``, with which py-amqp waits for replies.

    Attributes:
        is_drained: whether the socket was probably empty after the last read.
    """

    is_drained = False

    def receive(self, timeout: float | None) -> bytes:
        """Wait for bytes of the socket, and return them.

        Args:
            timeout: seconds; 0 not to wait, None for no limit.

        Raises:
            TimeoutError: none arrived in time.
            OSError: the connection is lost.
        """
        if not self.connected:
            # an OSError like that which made py-amqp close the socket
            raise ConnectionResetError("the connection is closed")
        transport = self.transport
        is_tls = isinstance(transport, SSLTransport)
        try:
            if timeout == 0 and not is_tls:
                received: bytes = transport.sock.recv(_READ_BYTES, socket.MSG_DONTWAIT)
            else:
                with transport.having_timeout(timeout) as sock:
                    received = sock.recv(_READ_BYTES)
        except BlockingIOError:
            raise TimeoutError from None
        except TimeoutError:
            raise
        except OSError:
            transport.connected = False
            raise
        if not received:
            transport.connected = False
            raise ConnectionResetError("the broker closed the connection")
        self.bytes_recv += 1  # the check of heartbeats compares it with its last value
        # after a large read more may have arrived; TLS returns one record per read
        self.is_drained = len(received) < _FEW_BYTES and not is_tls
        return received

    def open_channel(self, channel_id: int) -> Any:
        """The channel of a number; None if there is none or it is closing: the broker
        requeues messages for it."""
        channel = (self.channels or {}).get(channel_id)
        return None if channel is None or channel.is_closing else channel

    def dispatch_frame(self, kind: int, channel_id: int, payload: bytes) -> bool:
        """Let py-amqp dispatch a frame that is not part of a message. Return whether it
        was a method."""
        return bool(self.on_inbound_frame((kind, channel_id, payload)))

    def is_readable(self, channel_id: int, payload: bytes) -> bool:
        """Whether py-amqp can decode the payload of a method."""
        try:
            channel = self if channel_id == 0 else self.channels[channel_id]
            method = channel._METHODS[_METHOD_ID.unpack_from(payload)]  # noqa: SLF001 - py-amqp's table of methods
            loads(method.args or "", payload, _METHOD_ID.size)
        except Exception:  # noqa: BLE001 - py-amqp raises any type
            return False
        return True


def callback_of(channel: Any, consumer_tag: str) -> Callable[[Any], object] | None:
    """The callback for the messages of a consumer; None if there is none."""
    callback: Callable[[Any], object] | None = channel.callbacks.get(consumer_tag)
    return callback


def dispatch_message(
    channel: Any, method: tuple[int, int], payload: bytes, message: object
) -> None:
    """Let py-amqp dispatch a method with its message."""
    channel.dispatch_method(method, payload, message)


def write_some(channel: Any, frames: bytearray, timeout: float) -> int:
    """Write to the socket of a channel's connection; return the bytes written.

    Args:
        channel: an open channel.
        frames: bytes to write; the socket may take a part of them.
        timeout: seconds.

    Raises:
        TimeoutError: the socket took nothing in time.
        OSError: the connection is lost.
    """
    with channel.connection.transport.having_timeout(timeout) as sock:
        return int(sock.send(frames))


def wait_for_full_peer(channel: Any) -> None:
    """Turn off the kernel's timeout for unacknowledged data. py-amqp sets one second;
    it would end the connection to a broker that reads nothing for a while."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        sock = channel.connection.transport.sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)
