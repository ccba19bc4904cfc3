"""Sensor readings as JSON, and the sentences for those that do not fit."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from meshtasks.records.models import SensorReading, explain

READING = TypeAdapter(SensorReading)
READINGS = TypeAdapter(list[SensorReading])


def reason(body: bytes) -> str:
    with pytest.raises(ValidationError) as caught:
        READING.validate_json(body)
    return explain(caught.value)


def test_a_value_is_enough() -> None:
    assert READING.validate_json(b'{"value": 21}') == {"value": 21.0}


def test_other_fields_are_kept_as_attributes() -> None:
    reading = READING.validate_json(b'{"value": 1, "radio": {"rssi": -61}}')

    assert reading == {"value": 1.0, "radio": {"rssi": -61}}


def test_null_stands_for_a_missing_field() -> None:
    body = b'{"value": 1, "sensor_id": null, "unit": null, "location": null}'

    assert READING.validate_json(body)["unit"] is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"value": "21,5"}', 'value: expected a number, got the text "21,5"'),
        (b'{"value": "21.5"}', 'value: expected a number, got the text "21.5"'),
        (b'{"value": true}', "value: expected a number, got true"),
        (b'{"value": null}', "value: expected a number, got null"),
        (b'{"value": [1]}', "value: expected a number, got an array"),
        (b'{"value": {"now": 1}}', "value: expected a number, got an object"),
        (b'{"value": NaN}', "value: expected a finite number, got NaN"),
        (b'{"value": -Infinity}', "value: expected a finite number, got -Infinity"),
        (b'{"value": 1e400}', "value: expected a finite number, got Infinity"),
        (b"{}", "value: this field is missing"),
        (b'{"value": 1, "sensor_id": 7}', "sensor_id: expected text, got the number 7"),
        (b"[]", "expected a JSON object, got an array"),
        (b"3", "expected a JSON object, got the number 3"),
        (
            b'{"value": ',
            "the body is not valid JSON: EOF while parsing",
        ),
    ],
)
def test_a_reading_that_does_not_fit_is_explained(body: bytes, expected: str) -> None:
    assert reason(body).startswith(expected)


def test_a_huge_number_is_explained_without_its_digits() -> None:
    text = reason(b'{"value": ' + b"9" * 4_000 + b"}")

    assert text == "value: expected a finite number, got a number too large"


def test_a_long_text_is_not_repeated_in_full() -> None:
    assert len(reason(b'{"value": "' + b"x" * 10_000 + b'"}')) < 200


def test_the_first_of_several_faults_is_explained_and_the_others_counted() -> None:
    text = reason(b'{"value": "x", "unit": 1, "location": 2}')

    assert text == 'value: expected a number, got the text "x" (and 2 more)'


def test_the_fault_of_an_array_member_names_its_place() -> None:
    with pytest.raises(ValidationError) as caught:
        READINGS.validate_json(b'[{"value": 1}, {"value": "x"}]')

    assert explain(caught.value) == '1.value: expected a number, got the text "x"'
