"""Several records packed into one message."""

from __future__ import annotations

import math

import pytest

from meshtasks.producers.buffer import ArrayPacker, Batching, encode

KITCHEN = ("sensors", "sensors.temperature.kitchen")
OFFICE = ("sensors", "sensors.temperature.office")


def packer(array_size: int, size_bytes: int = 1000) -> ArrayPacker:
    return ArrayPacker(Batching(array_size=array_size, size_bytes=size_bytes))


def test_an_array_is_complete_at_its_number_of_records() -> None:
    arrays = packer(2)

    assert arrays.add(KITCHEN, b"1", 100.0) == []
    (complete,) = arrays.add(KITCHEN, b"2", 101.0)

    assert complete.message.body == b"[1,2]"
    assert complete.records == 2


def test_records_of_different_routes_are_not_mixed() -> None:
    arrays = packer(2)
    arrays.add(KITCHEN, b"1", 100.0)
    arrays.add(OFFICE, b"2", 100.0)

    assert [each.message.body for each in arrays.close_all()] == [b"[1]", b"[2]"]
    assert len(arrays) == 0


def test_an_array_carries_the_timestamp_of_its_first_record() -> None:
    arrays = packer(2)
    arrays.add(KITCHEN, b"1", 0.0)
    (complete,) = arrays.add(KITCHEN, b"2", 101.0)

    assert complete.message.timestamp == 0.0


def test_an_array_never_grows_beyond_the_size_of_a_batch() -> None:
    arrays = packer(1000, size_bytes=100)
    record = b"x" * 30

    messages = [each for _ in range(20) for each in arrays.add(KITCHEN, record, 1.0)]
    messages += arrays.close_all()

    assert max(len(each.message.body) for each in messages) <= 100
    assert sum(each.records for each in messages) == 20


def test_without_packing_a_record_is_a_message_and_no_array() -> None:
    (message,) = packer(1).add(KITCHEN, b"1", 100.0)

    assert message.message.body == b"1"


def test_every_message_has_an_id_of_its_own() -> None:
    arrays = packer(1)
    one, other = (arrays.add(KITCHEN, b"1", 1.0)[0] for _ in range(2))

    assert one.message.message_id != other.message.message_id


@pytest.mark.parametrize("value", [math.nan, math.inf, {"value": -math.inf}])
def test_what_json_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        encode(value)
