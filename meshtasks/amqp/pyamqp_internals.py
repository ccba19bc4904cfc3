"""What is used of py-amqp, and of kombu's transport of it, beyond what they document.

But for whose connections kombu's transports open (:mod:`meshtasks.amqp.receiving`), and
the table of its transports (``meshtasks/amqp/__init__.py``, which imports next to
nothing).

``tests/unit/test_pyamqp_internals.py`` does each of these things with the py-amqp that
is installed, so a release that moves any of it fails there first.
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

#: The properties of a message with the letters of their types, in the order of their
#: flags.
PROPERTY_TYPES: list[tuple[str, str]] = _Message.PROPERTIES

_METHOD_ID = Struct(">HH")
#: As much is taken from the socket at once, if it is there; after so little as the
#: second there is hardly more.
_READ_BYTES, _FEW_BYTES = 65_536, 4_096


class BaseConnection(pyamqp.Connection):  # type: ignore[misc]  # kombu ships no types
    """py-amqp's connection for a subclass that reads the frames itself, and overrides
    ``blocking_read``, by which py-amqp waits for answers.

    Attributes:
        is_drained: the socket had hardly more than it gave last.
    """

    is_drained = False

    def receive(self, timeout: float | None) -> bytes:
        """What the socket has; waits until it has something.

        Raises:
            TimeoutError: it had nothing in time.
            OSError: the connection is gone.
        """
        if not self.connected:
            # an OSError, as it closes its socket when a call meets one
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
        self.bytes_recv += 1  # heartbeats look whether it has changed
        # of much, the next part may have come meanwhile; TLS gives a record at a time
        self.is_drained = len(received) < _FEW_BYTES and not is_tls
        return received

    def open_channel(self, channel_id: int) -> Any:
        """The channel of a number; None if there is none, or if it is being closed:
        what comes for it, the broker takes back."""
        channel = (self.channels or {}).get(channel_id)
        return None if channel is None or channel.is_closing else channel

    def dispatch_frame(self, kind: int, channel_id: int, payload: bytes) -> bool:
        """Have py-amqp dispatch a frame that is no part of a message; whether it was a
        method."""
        return bool(self.on_inbound_frame((kind, channel_id, payload)))

    def is_readable(self, channel_id: int, payload: bytes) -> bool:
        """Whether py-amqp can read a method."""
        try:
            channel = self if channel_id == 0 else self.channels[channel_id]
            method = channel._METHODS[_METHOD_ID.unpack_from(payload)]  # noqa: SLF001 - those that it knows
            loads(method.args or "", payload, _METHOD_ID.size)
        except Exception:  # noqa: BLE001 - it raises whatever it happens to
            return False
        return True


def callback_of(channel: Any, consumer_tag: str) -> Callable[[Any], object] | None:
    """What is called with the messages of a consumer."""
    callback: Callable[[Any], object] | None = channel.callbacks.get(consumer_tag)
    return callback


def dispatch_message(
    channel: Any, method: tuple[int, int], payload: bytes, message: object
) -> None:
    """Have py-amqp dispatch a method with its message."""
    channel.dispatch_method(method, payload, message)


def write_some(channel: Any, frames: bytearray, timeout: float) -> int:
    """Give the socket of a channel's connection what it takes; how many bytes that was.

    Raises:
        TimeoutError: it took nothing in time.
        OSError: the connection is gone.
    """
    with channel.connection.transport.having_timeout(timeout) as sock:
        return int(sock.send(frames))


def wait_for_full_peer(channel: Any) -> None:
    """Let a peer that is there but takes nothing have its time: by py-amqp's setting,
    the kernel would end the connection after a second of it."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        sock = channel.connection.transport.sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)
