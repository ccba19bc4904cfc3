"""What a producer keeps while it waits for confirms."""

from __future__ import annotations

from meshtasks.messaging.publisher import Outgoing
from producers.buffer import MemoryBuffer, Pending


def pending(body: bytes, records: int = 1) -> Pending:
    return Pending(Outgoing("readings", "key", body), records)


def bodies(messages: object) -> list[bytes]:
    assert isinstance(messages, tuple | list)
    return [each.message.body for each in messages]


def test_messages_are_taken_oldest_first() -> None:
    buffer = MemoryBuffer()
    for body in (b"1", b"2", b"3"):
        buffer.append(pending(body))

    assert bodies(buffer.take(count=2, size_bytes=100)) == [b"1", b"2"]


def test_the_same_batch_is_taken_again_until_it_is_settled() -> None:
    buffer = MemoryBuffer()
    for body in (b"1", b"2", b"3"):
        buffer.append(pending(body))
    first = buffer.take(count=2, size_bytes=100)

    assert buffer.take(count=2, size_bytes=100) == first

    buffer.settle()
    assert bodies(buffer.take(count=2, size_bytes=100)) == [b"3"]


def test_a_batch_ends_at_its_size_in_bytes() -> None:
    buffer = MemoryBuffer()
    for _ in range(5):
        buffer.append(pending(b"x" * 10))

    assert len(buffer.take(count=5, size_bytes=20)) == 2


def test_a_message_larger_than_a_batch_is_taken_alone() -> None:
    buffer = MemoryBuffer()
    buffer.append(pending(b"x" * 100))
    buffer.append(pending(b"y"))

    assert bodies(buffer.take(count=5, size_bytes=20)) == [b"x" * 100]


def test_a_full_buffer_drops_its_oldest_waiting_message_and_says_which() -> None:
    buffer = MemoryBuffer(max_messages=2)
    for body in (b"1", b"2"):
        assert not buffer.append(pending(body))

    assert bodies(buffer.append(pending(b"3"))) == [b"1"]
    assert bodies(buffer.unsettled()) == [b"2", b"3"]


def test_messages_in_flight_are_never_dropped() -> None:
    buffer = MemoryBuffer(max_messages=1)
    buffer.append(pending(b"in flight"))
    buffer.take(count=1, size_bytes=100)
    buffer.append(pending(b"old"))

    assert bodies(buffer.append(pending(b"new"))) == [b"old"]
    assert bodies(buffer.unsettled()) == [b"in flight", b"new"]


def test_a_large_message_drops_as_many_as_its_size_needs() -> None:
    buffer = MemoryBuffer(max_bytes=10)
    for body in (b"1" * 4, b"2" * 4):
        buffer.append(pending(body))

    assert bodies(buffer.append(pending(b"3" * 8))) == [b"1" * 4, b"2" * 4]
    assert buffer.waiting_bytes == 8


def test_there_is_room_exactly_when_nothing_would_be_dropped() -> None:
    buffer = MemoryBuffer(max_bytes=10)
    buffer.append(pending(b"x" * 6))

    assert buffer.has_room(4)
    assert not buffer.has_room(5)


def test_a_message_larger_than_the_buffer_is_kept_alone() -> None:
    buffer = MemoryBuffer(max_bytes=10)

    assert not buffer.append(pending(b"x" * 100))
    assert buffer.waiting == 1
