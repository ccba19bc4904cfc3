"""The reader of what the broker sends, in the place of py-amqp's."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import amqp
import pytest
from amqp.method_framing import frame_handler
from amqp.serialization import dumps
from amqp.spec import Basic
from amqp.spec import Channel as ChannelMethods
from hypothesis import given
from hypothesis import strategies as st

from meshtasks.amqp.receiving import Message, ReceivingConnection

PROPERTIES = amqp.Message(message_id="m")._serialize_properties()  # noqa: SLF001


class Pipe:
    """A transport, as far as the reader uses it, that brings bytes in parts."""

    def __init__(self, *parts: bytes) -> None:
        self.connected = True
        self.sock = self
        self.parts = deque(parts)

    @contextmanager
    def having_timeout(self, _timeout: float | None) -> Iterator[Pipe]:
        yield self

    def recv(self, _size: int, _flags: int = 0) -> bytes:
        if not self.parts:
            raise TimeoutError
        return self.parts.popleft()

    def write(self, _frames: bytes) -> None:
        """What is written goes nowhere."""

    def close(self) -> None:
        self.connected = False


class Reader:
    """A connection with one channel, which has one consumer, and what came."""

    def __init__(self, *parts: bytes) -> None:
        self.connection = ReceivingConnection()
        self._pipe = self.connection.transport = Pipe(*parts)
        self.connection.on_inbound_frame = frame_handler(
            self.connection, self.connection.on_inbound_method
        )
        self.connection.frame_writer = lambda *_: None
        self.channel: Any = self.connection.Channel(self.connection, 1)
        self.channel.is_open = True
        self.came: list[Message] = []
        self.channel.callbacks["tag"] = self.came.append

    def read(self, most: int = 1_000) -> list[Message]:
        while self.connection.read_arrived(most) or self._pipe.parts:
            pass
        return self.came


def frame(kind: int, payload: bytes, channel: int = 1) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def method(signature: tuple[int, int], arguments: bytes) -> bytes:
    return frame(1, struct.pack(">HH", *signature) + arguments)


def content(body: bytes, properties: bytes = PROPERTIES, part: int = 1_000) -> bytes:
    header = frame(2, struct.pack(">HHQ", 60, 0, len(body)) + properties)
    parts = [body[start : start + part] for start in range(0, len(body), part)]
    return header + b"".join(frame(3, each) for each in parts)


def delivery(
    body: bytes,
    key: bytes = b"k",
    *,
    tag: bytes = b"tag",
    number: int = 1,
    **options: Any,
) -> bytes:
    arguments = bytes([len(tag)]) + tag + struct.pack(">QB", number, 0)
    arguments += b"\x01e" + bytes([len(key)]) + key
    return method(Basic.Deliver, arguments) + content(body, **options)


@given(
    bodies=st.lists(st.binary(max_size=30), max_size=5),
    cuts=st.lists(st.integers(0, 600), max_size=6),
    part=st.integers(1, 30),
)
def test_messages_are_whole_however_they_come(
    bodies: list[bytes], cuts: list[int], part: int
) -> None:
    stream = b"".join(
        delivery(body, number=number, part=part) + frame(8, b"", 0)
        for number, body in enumerate(bodies)
    )
    ends = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    parts = [stream[a:b] for a, b in pairwise(ends)]

    came = Reader(*parts).read()

    assert [each.body for each in came] == bodies
    assert [each.delivery_tag for each in came] == list(range(len(bodies)))
    assert all((each.exchange, each.routing_key) == ("e", "k") for each in came)
    assert all(each.properties["message_id"] == "m" for each in came)


@given(st.binary(max_size=255))
def test_a_routing_key_of_any_bytes_is_taken(key: bytes) -> None:
    one, other = Reader(delivery(b"fast", key) + delivery(b"slow", key, part=1)).read()

    assert one.routing_key == other.routing_key
    assert len(one.routing_key.encode()) <= 255


@given(st.binary(min_size=1, max_size=80))
def test_any_bytes_are_read_or_close_the_connection(noise: bytes) -> None:
    reader = Reader(delivery(b"good"), noise, delivery(b"later"))

    try:
        reader.read()
    except (amqp.ConnectionError, amqp.ChannelError) as error:
        if isinstance(error, amqp.UnexpectedFrame):
            assert not reader.connection.connected

    assert reader.came[0].body == b"good"


@given(
    stream=st.just(delivery(b"body" * 9, part=20) + delivery(b"")),
    place=st.integers(0, 250),
    odd=st.integers(0, 255),
)
def test_a_damaged_byte_is_read_or_closes_the_connection(
    stream: bytes, place: int, odd: int
) -> None:
    damaged = bytearray(stream)
    damaged[place % len(stream)] = odd
    reader = Reader(bytes(damaged))

    try:
        reader.read()
    except (amqp.ConnectionError, amqp.ChannelError):
        assert not reader.connection.connected


def test_a_fetched_message_has_what_py_amqp_tells_of_it() -> None:
    arguments = dumps("Lbssl", (9, True, "e", "k", 3))
    reader = Reader(method(Basic.GetOk, arguments) + content(b"body"))

    message = reader.channel.basic_get("queue")

    assert message.body == b"body"
    assert message.channel is reader.channel
    assert (message.delivery_tag, message.redelivered) == (9, True)
    assert message.delivery_info["routing_key"] == "k"


def test_a_returned_message_is_told_of_with_its_key_made_readable() -> None:
    arguments = struct.pack(">H", 312) + b"\x08NO_ROUTE\x01e\x02k\xff"
    reader = Reader(method(Basic.Return, arguments) + content(b""))
    returned: list[str] = []
    reader.channel.events["basic_return"].add(
        lambda _error, _exchange, key, _message: returned.append(key)
    )

    reader.read()

    assert returned == [r"k\xff"]


def test_the_reason_of_a_closed_channel_may_be_cut_off_in_a_letter() -> None:
    reason = b"no queue k\xc3"
    arguments = struct.pack(">HB", 404, len(reason)) + reason + struct.pack(">HH", 0, 0)
    reader = Reader(method(ChannelMethods.Close, arguments))
    reader.channel.open = lambda: None

    with pytest.raises(amqp.NotFound, match=r"no queue k\\xc3"):
        reader.read()


def test_what_comes_for_a_consumer_that_is_gone_goes_back_to_its_queue() -> None:
    reader = Reader(delivery(b"body", tag=b"gone", number=5))
    back: list[Any] = []
    reader.channel.basic_reject = lambda *given, **named: back.append((given, named))

    reader.read()

    assert back == [((5,), {"requeue": True})]


def test_what_comes_for_a_channel_that_closes_is_left_to_the_broker() -> None:
    reader = Reader(delivery(b"body"))
    reader.channel.is_closing = True

    assert reader.read() == []


def test_a_callback_may_wait_for_an_answer() -> None:
    answer = method(Basic.CancelOk, b"\x03tag")
    reader = Reader(delivery(b"1") + delivery(b"2", number=2) + answer)

    def cancel_at_the_first(message: Message) -> None:
        reader.came.append(message)
        if message.body == b"1":
            reader.channel.basic_cancel("tag")

    reader.channel.callbacks["tag"] = cancel_at_the_first

    assert [each.body for each in reader.read()] == [b"1", b"2"]
