"""py-amqp's connection with a reader of our own for the frames of the broker.

py-amqp raises on texts that are not UTF-8, on timestamps that Python has no date for,
and on tables that are nested too deep. So any publisher could stop a consumer. Besides,
its reader took two thirds of the processor time of a reading, end to end
(docs/decisions/0010).

Therefore this module reads the bytes. It assembles messages (``basic.deliver``,
``basic.get-ok``, ``basic.return``) without py-amqp;
:mod:`meshtasks.amqp.content` decodes their properties. All other frames go to py-amqp,
which connects, calls methods, publishes and acknowledges as usual. It waits for replies
with :meth:`ReceivingConnection.blocking_read`, so replies pass this reader too.

AMQP 0-9-1 describes frames in section 4.2.3, and contents in 4.2.6.
"""

from __future__ import annotations

from struct import Struct
from struct import error as struct_error
from typing import Any, NoReturn

import msgspec
from amqp.exceptions import UnexpectedFrame
from kombu.transport import pyamqp
from typing_extensions import override

from meshtasks.amqp.content import Properties, short_text
from meshtasks.amqp.frames import (
    BODY,
    CONTENT_HEADER,
    FRAME,
    FRAME_END,
    FRAME_OVERHEAD_BYTES,
    HEADER_FRAME,
    HEARTBEAT,
    METHOD,
)
from meshtasks.amqp.pyamqp_internals import (
    BaseConnection,
    callback_of,
    dispatch_message,
    dumps,
    spec,
)

#: Class and weight of a content header; size of the body.
_HEADER = Struct(">HHQ")
_METHOD_ID = Struct(">HH")
_DELIVERY_TAG = Struct(">Q?")

_DELIVER = _METHOD_ID.pack(*spec.Basic.Deliver)
#: Methods that are followed by a message.
_CONTENT_METHODS = {spec.Basic.Deliver, spec.Basic.GetOk, spec.Basic.Return}
#: Methods whose texts may quote a name, and may end in the middle of a character.
_QUOTING_METHODS = {spec.Connection.Close, spec.Channel.Close}
#: Types of their arguments, as py-amqp writes them.
_ARGUMENTS = {
    spec.Basic.Deliver: "sLbss",
    spec.Basic.GetOk: "Lbssl",
    spec.Basic.Return: "Bsss",
    spec.Connection.Close: "BsBB",
    spec.Channel.Close: "BsBB",
}
#: Layouts of these types; ``s`` is a short string.
_NUMBERS = {"B": Struct(">H"), "l": Struct(">I"), "L": Struct(">Q"), "b": Struct(">?")}
#: Most pairs of exchange and routing key in the cache of decoded ones.
_MOST_REMEMBERED = 10_000


class Message(msgspec.Struct, gc=False, eq=False):
    """A received message, with the attributes of py-amqp's message.

    Attributes:
        body: undecoded bytes.
        properties: AMQP properties.
        channel: channel on which it was received.
        consumer_tag: tag of its consumer; empty for ``basic.get``.
        delivery_tag: its number on the channel.
        redelivered: whether the broker delivered it before.
        exchange: exchange to which it was published.
        routing_key: routing key with which it was published.
    """

    body: bytes
    properties: Properties
    channel: Any = None
    consumer_tag: str = ""
    delivery_tag: int = 0
    redelivered: bool = False
    exchange: str = ""
    routing_key: str = ""

    @property
    def headers(self) -> dict[str, Any]:
        """AMQP headers; empty if there are none."""
        table: dict[str, Any] = self.properties.get("application_headers") or {}
        return table

    @property
    def delivery_info(self) -> dict[str, Any]:
        """The arguments of its delivery, under py-amqp's names."""
        return {
            "consumer_tag": self.consumer_tag,
            "delivery_tag": self.delivery_tag,
            "redelivered": self.redelivered,
            "exchange": self.exchange,
            "routing_key": self.routing_key,
        }

    @delivery_info.setter
    def delivery_info(self, info: dict[str, Any]) -> None:
        """Set by py-amqp after ``basic.get``."""
        self.delivery_tag = info["delivery_tag"]
        self.redelivered = info["redelivered"]
        self.exchange = info["exchange"]
        self.routing_key = info["routing_key"]


class _Arriving:
    """A message of which some frames have arrived.

    Attributes:
        method: payload of its method frame.
    """

    __slots__ = ("_missing_bytes", "_parts", "_properties", "method")

    def __init__(self, method: bytes) -> None:
        self.method = method
        self._properties: Properties | None = None
        self._missing_bytes = 0
        self._parts: list[bytes] = []

    def take(self, kind: int, payload: bytes) -> Message | None:
        """Add a frame. Return the message if it is complete, else None.

        Raises:
            ValueError: a frame of another type is due, or the frame is too long.
            struct.error: the frame is too short.
        """
        if kind == CONTENT_HEADER and self._properties is None:
            _, _, self._missing_bytes = _HEADER.unpack_from(payload)
            self._properties = Properties(payload[_HEADER.size :])
        elif kind == BODY and self._properties is not None:
            self._missing_bytes -= len(payload)
            self._parts.append(payload)
        else:
            reason = f"a frame of type {kind} amid a message"
            raise ValueError(reason)
        if self._missing_bytes < 0:
            raise ValueError("a body that is longer than its header states")
        if self._missing_bytes:
            return None
        return Message(b"".join(self._parts), self._properties)


class ReceivingConnection(BaseConnection):
    """A connection whose messages may contain any bytes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._received = b""
        # Offset of the next frame in ``_received``.
        self._offset = 0
        self._arriving: dict[int, _Arriving] = {}
        self._routes: dict[bytes, tuple[str, str]] = {}

    @override
    def blocking_read(self, timeout: float | None = None) -> bool:
        """Wait for one method or message, and dispatch it.

        Raises:
            TimeoutError: none arrived in time.
            amqp.AMQPError, OSError: the broker closed the channel or the connection.
        """
        while not self._dispatch(1):
            self._receive(timeout)
        return True

    def read_arrived(self, most: int) -> bool:
        """Dispatch the methods and messages that have arrived, without waiting.

        Args:
            most: most methods and messages to dispatch.

        Returns:
            Whether there may be more.

        Raises:
            amqp.AMQPError, OSError: the broker closed the channel or the connection.
        """
        left = most - self._dispatch(most)
        while left:
            try:
                self._receive(0)
            except TimeoutError:
                return False
            left -= self._dispatch(left)
            if self.is_drained and left:
                return False
        return True

    def _receive(self, timeout: float | None) -> None:
        """Wait for bytes of the socket, and add them to ``_received``.

        Raises:
            TimeoutError: none arrived in time.
            OSError: the connection is lost.
        """
        received = self.receive(timeout)
        self._received = self._received[self._offset :] + received
        self._offset = 0

    def _dispatch(self, most: int) -> int:
        """Dispatch at most ``most`` complete methods and messages of ``_received``.

        A callback may wait for a reply and so call this method again. Therefore all
        state that must survive a callback is in attributes.

        Returns:
            The number of dispatched methods and messages.
        """
        dispatched = 0
        while dispatched < most:
            received, offset = self._received, self._offset
            if offset + FRAME_OVERHEAD_BYTES > len(received):
                break
            kind, channel_id, size = FRAME.unpack_from(received, offset)
            start = offset + FRAME.size
            end = start + size
            if size > self.frame_max:
                self._give_up(f"a frame of {size} bytes")
            if end >= len(received):
                break
            if received[end] != FRAME_END:
                self._give_up("a frame without an end")
            if (
                kind == METHOD
                and received.startswith(_DELIVER, start)
                and self._deliver(channel_id, start, end)
            ):
                dispatched += 1
                continue
            self._offset = end + 1
            dispatched += self._frame(kind, channel_id, received[start:end])
        return dispatched

    def _deliver(  # noqa: PLR0911 - one for each reason to take the slow path
        self, channel_id: int, start: int, end: int
    ) -> bool:
        """Fast path: dispatch a delivery of which all frames have arrived, with at most
        one body frame. Return false if it is another case.

        Args:
            channel_id: number of the channel.
            start: offset at which the payload of the method begins.
            end: offset at which it ends.
        """
        received = self._received
        head = end + 1
        if head + HEADER_FRAME.size > len(received):
            return False
        kind, header_channel, size, _, _, body_size = HEADER_FRAME.unpack_from(
            received, head
        )
        header_end = head + FRAME.size + size
        after = header_end + 1 + (body_size + FRAME_OVERHEAD_BYTES if body_size else 0)
        if (
            after > len(received)
            or kind != CONTENT_HEADER
            or header_channel != channel_id
            or size < _HEADER.size
            or received[header_end] != FRAME_END
            or channel_id in self._arriving
        ):
            return False
        body = b""
        if body_size:
            frame = FRAME.unpack_from(received, header_end + 1)
            if (
                frame != (BODY, channel_id, body_size)
                or received[after - 1] != FRAME_END
            ):
                return False
            body = received[header_end + FRAME_OVERHEAD_BYTES : after - 1]
        tag_start = start + 5
        tag_end = tag_start + received[start + 4]
        if tag_end + 9 >= end:
            return False
        channel = self.open_channel(channel_id)
        if channel is None:
            return False
        # we and the broker make tags of ASCII; any other tag takes the slow path
        consumer_tag = str(received[tag_start:tag_end], "latin-1")
        callback = callback_of(channel, consumer_tag)
        if callback is None:
            return False
        delivery_tag, redelivered = _DELIVERY_TAG.unpack_from(received, tag_end)
        encoded_route = received[tag_end + 9 : end]
        route = self._routes.get(encoded_route)
        if route is None:
            route = self._route(encoded_route)
        self._offset = after
        properties = Properties(received[head + HEADER_FRAME.size : header_end])
        callback(
            Message(
                body,
                properties,
                channel,
                consumer_tag,
                delivery_tag,
                redelivered,
                *route,
            )
        )
        return True

    def _route(self, encoded: bytes) -> tuple[str, str]:
        """Decode exchange and routing key, and cache them."""
        try:
            exchange, routing_key = _arguments("ss", encoded, 0)
        except (struct_error, IndexError) as fault:
            self._give_up("a delivery without a routing key", fault)
        if len(self._routes) >= _MOST_REMEMBERED:
            self._routes.clear()
        route = self._routes[encoded] = exchange, routing_key
        return route

    def _frame(self, kind: int, channel_id: int, payload: bytes) -> int:
        """Dispatch one frame. Return 1 if it was a method or completed a message, else
        0."""
        message = None
        arriving = self._arriving.get(channel_id)
        if arriving is None and kind not in {METHOD, HEARTBEAT}:
            self._give_up(f"a frame of type {kind}, and no message had begun")
        try:
            if arriving is not None and kind != HEARTBEAT:
                message = arriving.take(kind, payload)
                if message is None:
                    return 0
                del self._arriving[channel_id]
                payload = arriving.method
            elif kind == METHOD:
                method = _METHOD_ID.unpack_from(payload)
                if method in _CONTENT_METHODS:
                    payload = _readable(method, payload)
                    self._arriving[channel_id] = _Arriving(payload)
                    return 0
                if method in _QUOTING_METHODS:
                    payload = _readable(method, payload)
        except (ValueError, IndexError, struct_error) as fault:
            self._give_up(f"a damaged frame ({fault})", fault)
        if message is None:
            return int(self._by_py_amqp(kind, channel_id, payload))
        if (channel := self.open_channel(channel_id)) is not None:
            method = _METHOD_ID.unpack_from(payload)
            dispatch_message(channel, method, payload, message)
        return 1

    def _by_py_amqp(self, kind: int, channel_id: int, payload: bytes) -> bool:
        """Let py-amqp dispatch a frame that is not part of a message."""
        try:
            return self.dispatch_frame(kind, channel_id, payload)
        except Exception as fault:
            # Is the frame invalid, or did the callback raise?
            if kind == METHOD and not self.is_readable(channel_id, payload):
                self._give_up(f"a method that cannot be read ({fault!r})", fault)
            raise

    def _give_up(self, what: str, cause: BaseException | None = None) -> NoReturn:
        """Close the connection, because the start of the next frame is unknown.

        Raises:
            amqp.exceptions.UnexpectedFrame: always.
        """
        self.collect()
        reason = f"the broker sent {what}"
        raise UnexpectedFrame(reason) from cause


def _readable(method: tuple[int, int], payload: bytes) -> bytes:
    """The payload of a method, with texts that are valid UTF-8.

    Raises:
        IndexError, struct.error: the payload is incomplete.
    """
    letters = _ARGUMENTS[method]
    values = _arguments(letters, payload, _METHOD_ID.size)
    return payload[: _METHOD_ID.size] + bytes(dumps(letters, values))


def _arguments(letters: str, payload: bytes, offset: int) -> list[Any]:
    """Decode arguments of a method.

    Raises:
        IndexError, struct.error: the payload is incomplete.
    """
    values: list[Any] = []
    for letter in letters:
        if layout := _NUMBERS.get(letter):
            values += layout.unpack_from(payload, offset)
            offset += layout.size
        else:
            start = offset + 1
            offset = start + payload[offset]
            if offset > len(payload):
                raise IndexError("a text that ends too soon")
            values.append(short_text(payload[start:offset]))
    return values


class Transport(pyamqp.Transport):  # type: ignore[misc]  # kombu ships no types
    """kombu's transport for ``amqp://``, with :class:`ReceivingConnection`."""

    Connection = ReceivingConnection


class TLSTransport(pyamqp.SSLTransport):  # type: ignore[misc]  # kombu ships no types
    """kombu's transport for ``amqps://``, with :class:`ReceivingConnection`."""

    Connection = ReceivingConnection
