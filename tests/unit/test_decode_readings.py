"""Readings have two readers, and nobody can tell which of them has read one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtasks.errors import InvalidMessage
from meshtasks.flows.contract import Handler
from meshtasks.records.models import Reading, SensorReading
from meshtasks.records.timestamps import epoch_seconds
from meshtasks.worker.decode import Decoder

NOW = 1_795_440_000.0

BOTH = Decoder(
    Handler("q", lambda _batch, _sinks: [], SensorReading, (), True, struct=Reading)
)
PYDANTIC = Decoder(Handler("q", lambda _batch, _sinks: [], SensorReading, (), True))

texts = st.text(max_size=10)
moments = (
    st.datetimes(timezones=st.timezones(), allow_imaginary=False).map(
        lambda moment: moment.isoformat()
    )
    | st.from_regex(
        r"20\d\d-[01]\d-[0-3]\d[Tt ][0-2]\d:[0-6]\d(:[0-6]\d)?([.,]\d{0,9})?"
        r"(Z|z|[+-][0-2]\d:?[0-6]\d|)",
        fullmatch=True,
    )
    | st.floats()
    | st.integers(-(10**20), 10**20)
)
anything = st.none() | st.booleans() | st.integers() | st.floats() | texts
reading_objects = st.fixed_dictionaries(
    {"value": st.floats() | st.integers() | anything},
    optional={
        "sensor_id": st.none() | texts | anything,
        "unit": st.none() | texts,
        "timestamp": moments | anything,
        "location": st.none() | texts,
        "battery": anything | st.lists(anything, max_size=2),
    },
)
bodies = st.builds(
    lambda content, ascii_only: json.dumps(content, ensure_ascii=ascii_only).encode(
        errors="surrogatepass"
    ),
    reading_objects | st.lists(reading_objects, max_size=3),
    st.booleans(),
)


def plain(record: Any) -> tuple[Any, ...]:
    """A reading of either reader, its timestamp as what it stands for."""
    if isinstance(record, dict):
        fields: list[Any] = [record.get(name) for name in Reading.__struct_fields__]
        record = Reading(*fields)
    stamp = record.timestamp
    moment: float | type[InvalidMessage] | None
    try:
        moment = None if stamp is None else epoch_seconds(stamp, NOW)
    except InvalidMessage as error:
        moment = type(error)
    return record.value, record.sensor_id, record.unit, moment, record.location


def outcome(decoder: Decoder, body: bytes) -> Any:
    try:
        decoded = decoder.decode(body)
    except InvalidMessage as error:
        return type(error), str(error)
    records = [plain(record) for record in decoded.records]
    return records, list(decoded.indexes), list(decoded.bad), decoded.several


@given(bodies)
def test_both_readers_say_the_same_of_a_body(body: bytes) -> None:
    assert outcome(BOTH, body) == outcome(PYDANTIC, body)


@given(bodies, st.data())
def test_both_readers_say_the_same_of_a_damaged_body(
    body: bytes, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(body)))
    damaged = body[:place] + data.draw(st.binary(max_size=2)) + body[place + 1 :]

    assert outcome(BOTH, damaged) == outcome(PYDANTIC, damaged)


@pytest.mark.parametrize(
    "extra",
    [
        b'"\xff"',  # not UTF-8
        b"[" * 250 + b"]" * 250,  # deeper than pydantic goes
        b"1" * 5_000,  # longer than Python counts
        b"NaN",
        b'"\\ud800"',
    ],
    ids=["not-utf8", "deep", "long", "nan", "half-a-character"],
)
def test_both_readers_refuse_what_stands_in_other_fields(extra: bytes) -> None:
    body = b'[{"value": 1, "note": ' + extra + b"}]"

    assert outcome(BOTH, body) == outcome(PYDANTIC, body)


def test_usual_readings_are_read_by_msgspec() -> None:
    body = b'[{"value": 1, "timestamp": "2026-11-23T13:12:00Z"}]'

    (reading,) = BOTH.decode(body).records

    assert not isinstance(reading.timestamp, str)


def test_a_reading_with_other_fields_is_read_by_pydantic() -> None:
    body = b'[{"value": 1, "timestamp": "2026-11-23T13:12:00Z", "battery": 80}]'

    (reading,) = BOTH.decode(body).records

    assert isinstance(reading.timestamp, str)
