"""A message as AMQP 0-9-1 frames, to be written many at a time.

py-amqp writes each message on its own, and looks before each whether the broker has
said anything: 24 µs a message here, where joined frames take 3.

The layouts are those of AMQP 0-9-1: frames in section 4.2.3, the content header in
section 4.2.6.1, ``basic.publish`` in the class definition of ``basic``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from struct import Struct
from typing import Any, NamedTuple

from amqp import Message
from amqp.serialization import dumps

_CLASS_BASIC, _METHOD_PUBLISH = 60, 40
_TYPE_METHOD, _TYPE_HEADER, _TYPE_BODY = 1, 2, 3
_MANDATORY = 1
_END = b"\xce"

#: Type, channel and size of a frame.
_FRAME = Struct(">BHI")
#: Class, method and a reserved word.
_PUBLISH = Struct(">HHH")
#: A frame's head; class, weight, size of the body.
_HEADER = Struct(">BHIHHQ")
_HEADER_BYTES = _HEADER.size - _FRAME.size
_FLAGS = Struct(">H")
#: Length of the message id.
_LENGTH = Struct(">B")
_TIMESTAMP = Struct(">Q")
#: Length of a text, table or array.
_SIZE = Struct(">I")

#: A frame has so much beside its payload.
_FRAME_OVERHEAD_BYTES = _FRAME.size + len(_END)


class Outgoing(NamedTuple):
    """A message to publish.

    Attributes:
        exchange: name of the exchange; ``""`` is the default exchange.
        routing_key: at most 255 bytes.
        body: the JSON, encoded.
        message_id: the publisher's id; a resend keeps it.
        timestamp: epoch seconds; AMQP keeps whole seconds.
        headers: AMQP headers.
        properties: other AMQP properties (``content_type``, ``correlation_id``,
            …) to set or override.
    """

    exchange: str
    routing_key: str
    body: bytes
    message_id: str | None = None
    timestamp: float | None = None
    headers: dict[str, object] | None = None
    properties: dict[str, Any] | None = None


def publish_frames(message: Outgoing, channel_id: int, frame_max: int) -> bytes:
    """The frames that publish a message, mandatory.

    Args:
        message: what to publish; persistent JSON unless its properties say else.
        channel_id: number of the open channel.
        frame_max: largest frame agreed upon with the broker, in bytes.

    Raises:
        amqp.FrameSyntaxError: a header has a type that AMQP does not know.
        struct.error: a name or property is longer than 255 bytes.
        ValueError: properties and headers do not fit into one frame, as they have to.
    """
    body = message.body
    properties = _properties(message)
    if (size := _HEADER.size + len(properties) + len(_END)) > frame_max:
        reason = f"the content header has {size} bytes; a frame, {frame_max}"
        raise ValueError(reason)
    method = _method_frame(message.exchange, message.routing_key, channel_id)
    header = _HEADER.pack(
        _TYPE_HEADER,
        channel_id,
        _HEADER_BYTES + len(properties),
        _CLASS_BASIC,
        0,
        len(body),
    )
    frames = method + header + properties + _END
    most = frame_max - _FRAME_OVERHEAD_BYTES
    for start in range(0, len(body), most):
        part = body[start : start + most]
        frames += _FRAME.pack(_TYPE_BODY, channel_id, len(part)) + part + _END
    return frames


@lru_cache(maxsize=1024)
def _method_frame(exchange: str, routing_key: str, channel_id: int) -> bytes:
    payload: bytes = _PUBLISH.pack(_CLASS_BASIC, _METHOD_PUBLISH, 0) + dumps(
        "sso", (exchange, routing_key, _MANDATORY)
    )
    return _FRAME.pack(_TYPE_METHOD, channel_id, len(payload)) + payload + _END


def _encoded(**values: Any) -> bytes:
    """Flags and values of properties; the first has the highest bit."""
    flags, encoded = 0, b""
    for place, (name, kind) in enumerate(Message.PROPERTIES):
        if (value := values.get(name)) is not None:
            flags |= 1 << (15 - place)
            encoded += _table(value) if kind == "F" else dumps(kind, [value])
    return bytes(_FLAGS.pack(flags) + encoded)


def _table(table: Mapping[str, Any]) -> bytes:
    """A table as py-amqp writes it, but for bytes: it would make texts of them."""
    fields = b""
    for name, value in table.items():
        encoded = name.encode("utf-8", "surrogatepass")
        fields += _LENGTH.pack(len(encoded)) + encoded + _field(value)
    return _SIZE.pack(len(fields)) + fields


def _field(value: object) -> bytes:
    match value:
        case bytes():
            return b"x" + _SIZE.pack(len(value)) + value
        case str():
            encoded = value.encode("utf-8", "surrogatepass")
            return b"S" + _SIZE.pack(len(encoded)) + encoded
        case dict():
            return b"F" + _table(value)
        case list() | tuple():
            items = b"".join(map(_field, value))
            return b"A" + _SIZE.pack(len(items)) + items
        case _:
            return bytes(dumps("A", [[value]])[_SIZE.size :])  # what an array holds


def content_header_bytes(message: Outgoing) -> int:
    """Size of the frame that properties and headers need.

    Raises:
        amqp.FrameSyntaxError, struct.error: see :func:`publish_frames`.
    """
    return int(_HEADER.size) + len(_properties(message)) + len(_END)


def table_bytes(table: Mapping[str, Any]) -> int:
    """Size of a table of headers.

    Raises:
        amqp.FrameSyntaxError, struct.error: see :func:`publish_frames`.
    """
    return len(_table(table))


_DEFAULTS = {"content_type": "application/json", "delivery_mode": 2}
_PLAIN = _encoded(**_DEFAULTS)
#: With an id and a timestamp, which follow in this order.
_FULL_FLAGS = _encoded(**_DEFAULTS, message_id="x", timestamp=0)[: _FLAGS.size]
_FULL = _FULL_FLAGS + _PLAIN[_FLAGS.size :]


def _properties(message: Outgoing) -> bytes:
    _, _, _, message_id, timestamp, headers, properties = message
    if not headers and not properties:
        if message_id and timestamp is not None:
            encoded = message_id.encode()
            length = _LENGTH.pack(len(encoded))
            return _FULL + length + encoded + _TIMESTAMP.pack(int(timestamp))
        if message_id is None and timestamp is None:
            return _PLAIN
    values: dict[str, Any] = {**_DEFAULTS, **(properties or {})}
    if message_id is not None:
        values["message_id"] = message_id
    if timestamp is not None:
        values["timestamp"] = int(timestamp)
    if headers:
        values["application_headers"] = headers
    return _encoded(**values)
