"""Parts of JSON exactly as they were written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtasks.records.json_text import (
    array_members,
    first_not_json_number,
    on_one_line,
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
