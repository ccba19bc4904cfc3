"""Parts of JSON exactly as they were written."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtasks.records.json_text import (
    array_members,
    first_not_json_number,
    object_member,
    on_one_line,
    scanned_member,
    scanned_members,
)

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.lists(_json), st.sampled_from([None, 0, 2]), st.booleans())
def test_members_joined_again_are_the_array(
    members: list[object],
    indent: int | None,
    ascii_only: bool,
) -> None:
    text = json.dumps(members, indent=indent, ensure_ascii=ascii_only)
    body = text.encode("utf-8", "surrogatepass")

    found = array_members(body)

    assert [json.loads(member) for member in found] == members


#: Pieces of JSON, and of what only looks like it.
_PIECES = st.sampled_from(
    [
        *(b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b" ", b"\n", b"\x0b"),
        *(b'"a"', b'"a":', b'"\\ud800"', b'"\\u12"', b'"\x01"', b'"\xff"', b'"]"'),
        *(
            b"1",
            b"01",
            b"-",
            b".5",
            b"1E+3",
            b"1e400",
            b"9" * 400,
            b"NaN",
            b"-Infinity",
        ),
        *(
            b"null",
            b"tru",
            b'{"a":1,"a":[2]}',
            b'{"a":[1,{"b":"]"}]}',
            b"[" * 70,
            b"-Infinity",
        ),
    ]
)


@given(st.lists(st.lists(_PIECES, max_size=3).map(b"".join), max_size=5))
def test_members_are_those_that_the_scanner_finds(members: list[bytes]) -> None:
    body = b"[" + b",".join(members) + b"]"

    assert _or_error(array_members, body) == _or_error(scanned_members, body)


@given(st.dictionaries(st.sampled_from("abc"), _json), st.sampled_from("abcd"))
def test_a_member_is_the_one_that_the_scanner_finds(
    content: dict[str, object], name: str
) -> None:
    text = json.dumps(content)[:-1] + (', "a": NaN}' if content else "}")
    valid = json.dumps(content, indent=1)

    for source in (text, valid, f'{{"a": 0,{valid[1:]}' if content else valid):
        found = object_member(source.encode(), name)
        assert found == scanned_member(source, name)


def _or_error(read: Callable[[bytes], list[bytes]], body: bytes) -> list[bytes] | str:
    try:
        return read(body)
    except ValueError as error:
        return str(error)


def test_members_keep_spelling_and_spaces() -> None:
    body = b' [ 21.50 ,{"a" : 1E3, "a":"\\u00b0C"},\n[ ] ] '
    assert array_members(body) == [b"21.50", b'{"a" : 1E3, "a":"\\u00b0C"}', b"[ ]"]


def test_a_number_longer_than_python_reads_is_passed_over() -> None:
    digits = b"9" * 5000
    assert array_members(b"[" + digits + b"]") == [digits]


@given(_json)
def test_one_line_says_the_same(value: object) -> None:
    text = json.dumps(value, indent=1).replace("\n", "\r\n").encode()

    line = on_one_line(text)

    assert b"\n" not in line
    assert b"\r" not in line
    assert json.loads(line) == value


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_a_number_that_is_not_json_is_found(name: str) -> None:
    assert first_not_json_number(b'{"value": [1, %b]}' % name.encode()) == name


def test_a_text_that_names_one_is_left_alone() -> None:
    assert first_not_json_number(b'{"value": "NaN", "Infinity": 1e999}') is None
