"""Message bodies become records."""

from __future__ import annotations

import re

import pytest

from meshtasks.errors import InvalidMessage, SchemaMismatch, UndecodableMessage
from meshtasks.flows.contract import Handler
from meshtasks.records.models import SensorReading
from meshtasks.worker.decode import Decoded, Decoder


@pytest.fixture
def decoder() -> Decoder:
    handler = Handler("q", lambda _batch, _sinks: [], SensorReading, (), True)
    return Decoder(handler)


def test_an_object_is_one_record(decoder: Decoder) -> None:
    assert decoder.decode(b' {"value": 21.5}') == Decoded([{"value": 21.5}], [None])


def test_an_array_is_one_record_per_member(decoder: Decoder) -> None:
    decoded = decoder.decode(b'[{"value": 1}, {"value": 2}]')

    assert decoded == Decoded([{"value": 1.0}, {"value": 2.0}], range(2))


def test_a_bare_number_is_a_value(decoder: Decoder) -> None:
    assert decoder.decode(b"-21.5\n").records == [{"value": -21.5}]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"21,5", 'expected an object or a number, got the text "21,5"'),
        (b"420 ppm", 'expected an object or a number, got the text "420 ppm"'),
        (b'1,"unit":"K"', 'an object or a number, got the text "1,"unit":"K""'),
        (b"on", 'expected an object or a number, got the text "on"'),
        (b"true", "value: expected a number, got true"),
        (b'"21.5"', 'value: expected a number, got the text "21.5"'),
    ],
)
def test_a_bare_value_that_is_no_number_is_quoted(
    decoder: Decoder, body: bytes, reason: str
) -> None:
    with pytest.raises(InvalidMessage, match=re.escape(reason)):
        decoder.decode(body)


def test_only_the_bad_members_of_an_array_are_dead(decoder: Decoder) -> None:
    decoded = decoder.decode(b'[{"value": 1}, {"value": "x"}, 7, {"value": 4}]')

    assert decoded.indexes == [0, 3]
    assert [fault.record_index for fault in decoded.bad] == [1, 2]
    assert decoded.bad[0].dead.error_type == "SchemaMismatch"


def test_a_member_with_a_value_that_is_not_json_is_dead_alone(decoder: Decoder) -> None:
    decoded = decoder.decode(b'[{"value": 1}, {"value": 2, "trend": -Infinity}]')

    assert decoded.indexes == [0]
    assert [fault.record_index for fault in decoded.bad] == [1]


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        (b"", UndecodableMessage, "empty"),
        (b"  \n", UndecodableMessage, "empty"),
        (b"not json", UndecodableMessage, "not JSON"),
        (b'{"value": 1', UndecodableMessage, "not JSON"),
        (
            b'{"value": "\xff"}',
            UndecodableMessage,
            "not UTF-8: byte 0xff at position 11",
        ),
        (b"[" * 5000, UndecodableMessage, "not JSON"),
        (b"[]", SchemaMismatch, "the array is empty"),
        (b"null", SchemaMismatch, "number, got null"),
        (b"{}", SchemaMismatch, "value"),
        (b'{"value": NaN}', SchemaMismatch, "finite"),
        (b"NaN", SchemaMismatch, "finite"),
        (b'{"value": 1, "trend": NaN}', UndecodableMessage, "NaN is not a number"),
        (b'{"value": "21.5"}', SchemaMismatch, "number"),
    ],
)
def test_a_bad_body_is_refused_with_its_reason(
    decoder: Decoder, body: bytes, kind: type[InvalidMessage], reason: str
) -> None:
    with pytest.raises(kind, match=reason):
        decoder.decode(body)
