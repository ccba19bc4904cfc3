"""Messages whose bytes no client library would write."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from tests.support.amqp import open_channel


class Hostile(NamedTuple):
    """A message to publish.

    Attributes:
        key: the routing key.
        body: the body.
        properties: flags and values of its properties.
    """

    key: bytes
    body: bytes
    properties: bytes = b"\0\0"


def text(flag: int, value: bytes) -> bytes:
    """Properties of which one is set, a short string."""
    return struct.pack(">HB", flag, len(value)) + value


def table(inside: bytes) -> bytes:
    """Properties that are headers alone."""
    return struct.pack(">HI", 0x2000, len(inside)) + inside


def nested(depth: int) -> bytes:
    """The inside of a table with so many tables in each other."""
    inside = b"\1aV"
    for _ in range(depth):
        inside = b"\1aF" + struct.pack(">I", len(inside)) + inside
    return inside


#: By what is odd in them.
PROPERTIES = {
    "content_type": text(0x8000, b"\xff\xfe"),
    "correlation_id": text(0x0400, b"k\xfcche"),
    "reply_to": text(0x0200, b"\xed\xa0\x80"),
    "message_id": text(0x0080, b"\xff" * 255),
    "app_id": text(0x0008, bytes(range(128, 256))),
    "milliseconds": struct.pack(">HQ", 0x0040, 1_795_829_640_000),
    "before 1970": struct.pack(">HQ", 0x0040, 2**64 - 5),
    "no year": struct.pack(">HQ", 0x0040, 2**63),
    "a header in milliseconds": table(b"\1tT" + struct.pack(">Q", 10**15)),
    "a header before 1970": table(b"\1tT" + struct.pack(">Q", 2**64 - 5)),
    "a header's name": table(b"\3a\xff\xfeI" + struct.pack(">i", 1)),
    "a header's text": table(b"\1aS" + struct.pack(">I", 3) + b"\xff\0\xfe"),
    "a header deep down": table(nested(3_000)),
    "many headers": table(b"\1aA" + struct.pack(">I", 60_000) + b"V" * 60_000),
    "an attempt": table(b"\x0ex-mesh-attemptl" + struct.pack(">q", 2**62)),
    "a task that is no text": table(b"\4taskA" + struct.pack(">I", 2) + b"VV"),
    "a compression": table(b"\x0bcompressionS" + struct.pack(">I", 4) + b"zlib"),
}


def publish(url: str, exchange: str, messages: Iterable[Hostile]) -> None:
    """Publish to an exchange; returns when the broker has taken all."""
    with open_channel(url) as channel:
        number, name = channel.channel_id, exchange.encode()

        def frame(kind: int, payload: bytes) -> bytes:
            head = struct.pack(">BHI", kind, number, len(payload))
            return head + payload + b"\xce"

        for key, body, properties in messages:
            method = struct.pack(">HHH", 60, 40, 0)
            method += bytes([len(name)]) + name + bytes([len(key)]) + key + b"\0"
            header = struct.pack(">HHQ", 60, 0, len(body)) + properties
            frames = frame(1, method) + frame(2, header) + frame(3, body)
            channel.connection.transport.write(frames)
        channel.queue_declare("dead.letter.queue", passive=True)
