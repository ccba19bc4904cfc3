"""Readings as lines of InfluxDB's line protocol."""

from __future__ import annotations

import pytest

from meshtasks.errors import SchemaMismatch
from meshtasks.records.kinds import HUMIDITY, TEMPERATURE
from meshtasks.records.points import line_start, lines


def test_a_point_has_measurement_tags_field_and_milliseconds() -> None:
    start = line_start(TEMPERATURE, "s1", "kitchen")

    assert lines([start], [21.5], [1_795_439_520.123]) == [
        "temperature,location=kitchen,sensor_id=s1 celsius=21.5 1795439520123"
    ]


def test_the_field_is_named_for_the_canonical_unit() -> None:
    assert line_start(HUMIDITY, "s1", "") == "humidity,sensor_id=s1 percent="


def test_a_whole_number_is_written_as_a_float() -> None:
    """A field's type is fixed by its first value; 21 would make it an integer."""
    assert lines(["m f="], [21.0], [1.0]) == ["m f=21.0 1000"]


@pytest.mark.parametrize("value", [0.1, -273.15, 1e-7, 1e16, 5e-324, 1.7e308, 1 / 3])
def test_a_value_is_written_so_that_the_same_is_read(value: float) -> None:
    (line,) = lines(["m f="], [value], [1.0])

    assert float(line.removeprefix("m f=").removesuffix(" 1000")) == value


def test_no_points_make_no_lines() -> None:
    assert lines([], [], []) == []


@pytest.mark.parametrize("milliseconds", range(0, 1_000, 37))
def test_a_millisecond_is_not_lost_to_binary_fractions(milliseconds: int) -> None:
    time = float(f"1795439561.{milliseconds:03d}")

    assert lines(["m f="], [1.0], [time]) == [f"m f=1.0 1795439561{milliseconds:03d}"]


def test_special_characters_of_tags_are_escaped() -> None:
    start = line_start(TEMPERATURE, "a,b=c", "living room")

    assert start == r"temperature,location=living\ room,sensor_id=a\,b\=c celsius="


@pytest.mark.parametrize(
    ("location", "tag"),
    [
        (r"C:\data\x", r"C:\data\x"),
        ("DOMAIN\\user", r"DOMAIN\user"),
        ("C:\\", "C:/"),
        (r"\\nas\share", r"/\nas\share"),
        (r"a\ b\,c", r"a/\ b/\,c"),
        ("one\ntwo\tthree\r\n", r"one\ntwo\tthree\r\n"),
        ("one\\\ntwo", r"one/\ntwo"),
    ],
)
def test_backslashes_and_line_breaks_are_written_as_every_store_reads_them(
    location: str, tag: str
) -> None:
    start = line_start(TEMPERATURE, "s", location)

    assert start == f"temperature,location={tag},sensor_id=s celsius="


def test_letters_of_any_alphabet_are_kept() -> None:
    assert "location=Küche" in line_start(TEMPERATURE, "s", "Küche")


@pytest.mark.parametrize("location", ["", "  "])
def test_a_blank_location_is_left_out(location: str) -> None:
    assert line_start(TEMPERATURE, "s", location) == "temperature,sensor_id=s celsius="


@pytest.mark.parametrize(
    ("sensor_id", "reason"),
    [
        ("", "sensor_id: is empty"),
        ("  ", "sensor_id: is empty"),
        ("x" * 256, "sensor_id: has 256 characters; 255 are allowed"),
        ("a\x00b", r"sensor_id: must not contain '\x00'"),
        ("a\udcffb", r"sensor_id: must not contain '\udcff'"),
    ],
)
def test_an_id_that_cannot_be_written_is_refused(sensor_id: str, reason: str) -> None:
    with pytest.raises(SchemaMismatch) as caught:
        line_start(TEMPERATURE, sensor_id, "")

    assert str(caught.value) == reason
