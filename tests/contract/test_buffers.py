"""What every buffer of a producer does while messages wait for confirms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from meshtasks.amqp.publisher import Outgoing
from meshtasks.producers.buffer import Buffer, Pending
from meshtasks.producers.spool import OVERHEAD_BYTES, Spool, SpoolLimits

#: Makes a buffer for so many messages, and so many bytes of bodies with what
#: the buffer counts beside them.
MakeBuffer = Callable[..., Buffer]

PLENTY = 1_000_000


@pytest.fixture(params=["memory", "spool", "spool on disk"])
def new_buffer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeBuffer]:
    """Makes a buffer of every kind."""
    with ExitStack() as buffers:

        def make(max_messages: int = PLENTY, max_bytes: int = PLENTY) -> Buffer:
            if request.param == "memory":
                return Buffer(max_messages, max_bytes)
            spool = Spool(tmp_path / "spool", SpoolLimits(max_messages, max_bytes))
            buffers.callback(spool.close)
            if request.param == "spool":
                spool.resolve()  # the broker has answered
            return spool

        yield make


@pytest.fixture
def overhead_bytes(request: pytest.FixtureRequest) -> int:
    """What a buffer counts for a message beside its body."""
    return 0 if "memory" in request.node.name else OVERHEAD_BYTES


def pending(body: bytes, records: int = 1) -> Pending:
    return Pending(Outgoing("readings", "key", body), records)


def bodies(messages: object) -> list[bytes]:
    assert isinstance(messages, tuple | list)
    return [each.message.body for each in messages]


def everything_in(buffer: Buffer) -> list[bytes]:
    found = []
    while batch := buffer.take(count=2, size_bytes=PLENTY):
        found += bodies(batch)
        buffer.resolve()
    return found


def test_messages_are_taken_oldest_first(new_buffer: MakeBuffer) -> None:
    buffer = new_buffer()
    for body in (b"1", b"2", b"3"):
        buffer.append(pending(body))

    assert bodies(buffer.take(count=2, size_bytes=100)) == [b"1", b"2"]


def test_a_message_is_given_back_as_it_was(new_buffer: MakeBuffer) -> None:
    message = Outgoing(
        *("readings", "key", b"\xff", "id", 1_795_439_462.25),
        headers={"origin": "test"},
        properties={"content_type": "text/plain"},
    )
    buffer = new_buffer()
    buffer.append(Pending(message, 7))

    (taken,) = buffer.take(count=1, size_bytes=100)

    assert taken == Pending(message, 7)


def test_the_same_batch_is_taken_again_until_it_is_resolved(
    new_buffer: MakeBuffer,
) -> None:
    buffer = new_buffer()
    for body in (b"1", b"2", b"3"):
        buffer.append(pending(body))
    first = buffer.take(count=2, size_bytes=100)

    assert buffer.take(count=2, size_bytes=100) == first

    buffer.resolve()
    assert bodies(buffer.take(count=2, size_bytes=100)) == [b"3"]


def test_the_same_batch_is_taken_again_after_the_broker_went_away(
    new_buffer: MakeBuffer,
) -> None:
    buffer = new_buffer()
    for body in (b"1", b"2"):
        buffer.append(pending(body))
    first = buffer.take(count=1, size_bytes=100)

    buffer.keep()
    buffer.append(pending(b"3"))

    assert buffer.take(count=1, size_bytes=100) == first
    buffer.resolve()
    assert everything_in(buffer) == [b"2", b"3"]


def test_a_batch_ends_at_its_size_in_bytes(new_buffer: MakeBuffer) -> None:
    buffer = new_buffer()
    for _ in range(5):
        buffer.append(pending(b"x" * 10))

    assert len(buffer.take(count=5, size_bytes=20)) == 2


def test_a_message_larger_than_a_batch_is_taken_alone(new_buffer: MakeBuffer) -> None:
    buffer = new_buffer()
    buffer.append(pending(b"x" * 100))
    buffer.append(pending(b"y"))

    assert bodies(buffer.take(count=5, size_bytes=20)) == [b"x" * 100]


def test_a_full_buffer_drops_its_oldest_waiting_message_and_returns_it(
    new_buffer: MakeBuffer,
) -> None:
    buffer = new_buffer(max_messages=2)
    for body in (b"1", b"2"):
        assert not buffer.append(pending(body))

    assert bodies(buffer.append(pending(b"3"))) == [b"1"]
    assert everything_in(buffer) == [b"2", b"3"]


def test_messages_in_flight_are_never_dropped(new_buffer: MakeBuffer) -> None:
    buffer = new_buffer(max_messages=1)
    buffer.append(pending(b"in flight"))
    buffer.take(count=1, size_bytes=100)
    buffer.append(pending(b"old"))

    assert bodies(buffer.append(pending(b"new"))) == [b"old"]
    assert everything_in(buffer) == [b"in flight", b"new"]


def test_a_large_message_drops_as_many_as_its_size_needs(
    new_buffer: MakeBuffer, overhead_bytes: int
) -> None:
    buffer = new_buffer(max_bytes=10 + 2 * overhead_bytes)
    for body in (b"1" * 4, b"2" * 4):
        buffer.append(pending(body))

    large = b"3" * (8 + overhead_bytes)
    assert bodies(buffer.append(pending(large))) == [b"1" * 4, b"2" * 4]
    assert buffer.waiting_bytes == 8 + 2 * overhead_bytes


def test_there_is_room_exactly_when_nothing_would_be_dropped(
    new_buffer: MakeBuffer, overhead_bytes: int
) -> None:
    buffer = new_buffer(max_bytes=10 + 2 * overhead_bytes)
    buffer.append(pending(b"x" * 6))

    assert buffer.has_room(4)
    assert not buffer.has_room(5)


def test_a_message_larger_than_the_buffer_is_kept_alone(new_buffer: MakeBuffer) -> None:
    buffer = new_buffer(max_bytes=10)

    assert not buffer.append(pending(b"x" * 100))
    assert buffer.waiting == 1
