"""Line protocol becomes metrics, whoever wrote it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from influxdb_client.client.write.point import Point

from meshtasks.errors import SchemaMismatch, UndecodableMessage
from meshtasks.records.lineprotocol import Line, read_lines


def only(body: str) -> dict[str, Any]:
    (line,) = read_lines(body.encode())
    assert line.metric is not None, line.fault
    return {**line.metric}


def value(text: str) -> Any:
    return only(f"m f={text}")["fields"]["f"]


def test_a_line_as_telegraf_writes_it() -> None:
    line = "cpu,cpu=cpu0,host=vm usage_user=1.5,usage_idle=97.25 1795829640000000000"

    assert only(line) == {
        "name": "cpu",
        "fields": {"usage_user": 1.5, "usage_idle": 97.25},
        "tags": {"cpu": "cpu0", "host": "vm"},
        "timestamp": 1795829640000000000,
    }


def test_a_line_needs_neither_tags_nor_time() -> None:
    assert only("m f=1") == {"name": "m", "fields": {"f": 1.0}, "tags": {}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1.0),
        ("-1.5e-3", -0.0015),
        ("+2.", 2.0),
        (".5", 0.5),
        ("12i", 12),
        ("-9223372036854775808i", -(2**63)),
        ("18446744073709551615u", 2**64 - 1),
        *((word, True) for word in ("t", "T", "true", "True", "TRUE")),
        *((word, False) for word in ("f", "F", "false", "False", "FALSE")),
        ('""', ""),
        ('"a, b=\\"c\\" \\\\ #d"', 'a, b="c" \\ #d'),
        ('"C:\\data\\n"', "C:\\data\\n"),
        ('"two\nlines"', "two\nlines"),
        ('"Küche"', "Küche"),
    ],
)
def test_a_value_has_the_type_it_is_written_with(text: str, expected: object) -> None:
    found = value(text)

    assert found == expected
    assert type(found) is type(expected)


def test_escaped_characters_are_themselves_and_other_backslashes_too() -> None:
    line = r"my\ disk\,a=b,ho\ st=a\,b\ \=\ c,path=C:\data\x used\ %\,\ a\=b=1"

    assert only(line) == {
        "name": "my disk,a=b",
        "tags": {"ho st": "a,b = c", "path": r"C:\data\x"},
        "fields": {"used %, a=b": 1.0},
    }


@pytest.mark.parametrize(
    "body",
    [
        "a f=1 5\nb f=2 6\n",
        "a f=1 5\r\nb f=2 6\r\n",
        "# a comment, f=1\n\n  a  f=1   5 \t\n\t\r\nb f=2 6",
        "a,empty= f=1 5\nb f=2 6",
    ],
)
def test_lines_are_told_apart_whatever_ends_them(body: str) -> None:
    metrics = [line.metric for line in read_lines(body.encode())]

    assert metrics == [
        {"name": "a", "fields": {"f": 1.0}, "tags": {}, "timestamp": 5},
        {"name": "b", "fields": {"f": 2.0}, "tags": {}, "timestamp": 6},
    ]


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ("m", "expected a space before the fields"),
        ("m ", "expected the name of a field"),
        ("m f", 'expected "=" after the field f'),
        ("m f=", "expected a number, true, false or a text"),
        ("m f=nan", "expected a number, true, false or a text"),
        ("m f=one", "expected a number, true, false or a text"),
        ('m f="open', "a text in quotes does not end"),
        ("m f=1i2", "expected the end of the line"),
        ("m f=1 5 6", "expected the end of the line"),
        ("m f=1,", "expected the name of a field"),
        ("m f=1 soon", "expected the end of the line"),
        ("m,t f=1", 'expected "=" after the tag t'),
        ("m,=x f=1", "expected the name of a tag"),
        (",t=x f=1", "expected a measurement"),
        ("m,t=x", "expected a space before the fields"),
        ("m f=99999999999999999999999i", "expected the end of the line"),
        ("<html>", "expected a space before the fields"),
    ],
)
def test_a_bad_line_takes_nothing_of_its_neighbours(bad: str, expected: str) -> None:
    body = f'a s="x",f=1 5\n{bad}\r\nb s="y",f=2 6\n'

    first, wrong, last = read_lines(body.encode())

    assert first.source == b'a s="x",f=1 5'
    assert first.metric is not None
    assert last.metric is not None
    assert wrong == Line(bad.strip().encode(), None, wrong.fault)
    assert expected in wrong.fault


@pytest.mark.parametrize("body", [b"", b" \n\r\n", b"# only\n# comments"])
def test_a_body_without_lines_is_refused(body: bytes) -> None:
    with pytest.raises(SchemaMismatch):
        read_lines(body)


def test_bytes_that_are_not_utf_8_are_refused_with_their_place() -> None:
    with pytest.raises(UndecodableMessage, match="0xff at position 4"):
        read_lines(b"m f=\xff")


#: influxdb-client writes line breaks and tabs of names as two characters, and cannot
#: write a backslash at their end; InfluxDB reads back what we do.
names = (
    st.text(st.characters(exclude_categories=["C", "Z"]) | st.sampled_from("\\,= \"'"))
    .map(lambda text: text.strip("\\ "))
    .filter(lambda text: text and not text.startswith("#"))
    .filter(lambda text: not any(f"\\{each}" in text for each in "\\,= "))
)
values = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)


@given(
    name=names,
    tags=st.dictionaries(names, names, max_size=3),
    fields=st.dictionaries(names, values, min_size=1, max_size=3),
    time=st.none() | st.integers(1, 2**62),
)
def test_what_influxdbs_own_client_writes_is_read_back(
    name: str, tags: Any, fields: Any, time: Any
) -> None:
    point = Point.from_dict(
        {"measurement": name, "tags": tags, "fields": fields, "time": time}
    )

    metric = only(point.to_line_protocol())

    assert metric["name"] == name
    assert metric["tags"] == tags
    assert metric["fields"] == fields
    assert metric.get("timestamp") == time


@given(st.text(st.sampled_from('ab=, \\"\n\r#1.5eitT{')) | st.binary())
def test_whatever_is_written_lines_are_all_there_is(body: str | bytes) -> None:
    body = body.encode() if isinstance(body, str) else body
    try:
        lines = read_lines(body)
    except (SchemaMismatch, UndecodableMessage):
        return
    for line in lines:
        assert (line.metric is None) == bool(line.fault)
        assert line.source in body
        assert [each.metric for each in read_lines(line.source)] == [line.metric]
