"""Properties and headers: as py-amqp reads what is sound, and never an exception."""

from __future__ import annotations

import json
import math
import pickle
import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import amqp
import pytest
from amqp.serialization import decode_properties_basic, loads
from hypothesis import given
from hypothesis import strategies as st

from meshtasks.amqp.content import (
    UNREAD_HEADER,
    Origin,
    Properties,
    decode_properties,
    decode_table,
    origin_of,
    short_text,
)

LATEST = 253_402_128_000

texts = st.text(max_size=60)


def long(letter: bytes, encoded: bytes) -> bytes:
    return letter + struct.pack(">I", len(encoded)) + encoded


def fields(*given: tuple[str, bytes]) -> bytes:
    """The inside of a table."""
    return b"".join(
        bytes([len(name.encode())]) + name.encode() + value for name, value in given
    )


def packed(letter: str, layout: str, values: st.SearchStrategy[Any]) -> Any:
    return values.map(lambda value: letter.encode() + struct.pack(">" + layout, value))


def integers(letter: str, layout: str) -> Any:
    bits = 8 * struct.calcsize(">" + layout)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if layout.isupper():
        low, high = 0, 2**bits - 1
    return packed(letter, layout, st.integers(low, high))


scalars = st.one_of(
    integers("b", "b"),
    integers("B", "B"),
    integers("s", "h"),
    integers("U", "h"),
    integers("u", "H"),
    integers("I", "i"),
    integers("i", "I"),
    integers("L", "q"),
    integers("l", "q"),
    packed("f", "f", st.floats(width=32)),
    packed("d", "d", st.floats()),
    packed("t", "?", st.booleans()),
    packed("T", "Q", st.integers(0, LATEST)),
    st.just(b"V"),
    st.builds(
        lambda exponent, digits: b"D" + struct.pack(">Bi", exponent, digits),
        st.integers(0, 20),
        st.integers(-(2**31), 2**31 - 1),
    ),
    texts.map(lambda text: long(b"S", text.encode())),
    st.binary(max_size=20).map(lambda raw: long(b"x", raw)),
    st.binary(max_size=20).map(lambda raw: long(b"S", raw)),
)
table_values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: long(b"A", b"".join(items)))
        | st.lists(st.tuples(texts, inner), max_size=4).map(
            lambda found: long(b"F", fields(*found))
        )
    ),
    max_leaves=8,
)
tables = st.lists(st.tuples(texts, table_values), max_size=6).map(
    lambda found: long(b"", fields(*found))
)
properties = st.fixed_dictionaries(
    {},
    optional={
        **{name: texts for name, kind in amqp.Message.PROPERTIES if kind == "s"},
        "application_headers": st.dictionaries(
            texts, texts | st.integers(-(2**63), 2**63 - 1) | st.booleans()
        ),
        "delivery_mode": st.integers(0, 255),
        "priority": st.integers(0, 255),
        "timestamp": st.integers(0, LATEST),
    },
)


def same(ours: Any, theirs: Any) -> bool:
    """Whether both are equal; no number is equal to itself, if it is none."""
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(
            same(ours[name], theirs[name]) for name in theirs
        )
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(theirs, float) and math.isnan(theirs):
        return isinstance(ours, float) and math.isnan(ours)
    if isinstance(theirs, Decimal):
        return isinstance(ours, Decimal) and ours == theirs
    return type(ours) is type(theirs) and bool(ours == theirs)


@given(tables)
def test_tables_are_read_as_py_amqp_reads_them(encoded: bytes) -> None:
    (theirs,), end = loads("F", encoded, 0)

    assert same(decode_table(encoded)[0], theirs)
    assert decode_table(encoded)[1] == end


@given(properties)
def test_properties_are_read_as_py_amqp_reads_them(values: dict[str, Any]) -> None:
    encoded = amqp.Message(**values)._serialize_properties()  # noqa: SLF001

    theirs, _ = decode_properties_basic(encoded, 0)

    assert same(decode_properties(encoded), theirs)
    assert same(dict(Properties(encoded)), theirs)
    assert origin_of(encoded) == Origin.of(theirs)
    assert Properties(encoded).has_headers == ("application_headers" in theirs)


@given(st.binary(max_size=400) | tables.map(lambda table: b"\x20\x00" + table[:-1]))
def test_any_bytes_are_taken_and_can_go_to_the_pool(encoded: bytes) -> None:
    values = decode_properties(encoded)

    assert pickle.loads(pickle.dumps(values)).keys() == values.keys()
    assert origin_of(encoded) == Origin.of(values) or "nan" in repr(values)


@given(st.binary(max_size=400))
def test_a_short_text_of_any_bytes_is_utf8_and_short_enough(encoded: bytes) -> None:
    text = short_text(encoded)

    assert len(text.encode()) <= 255
    assert json.loads(json.dumps(text, ensure_ascii=False)) == text


def test_texts_of_different_bytes_stay_different() -> None:
    assert short_text(b"k\xe4che") != short_text(b"k\xf6che")
    assert short_text(b"k\xfcche") == r"k\xfcche"
    assert short_text("küche".encode()) == "küche"


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (0, 0),
        (1_795_829_640, 1_795_829_640),
        (10**12 * 2, LATEST),
        (2**63 - 1, LATEST),
        (2**63, 0),
        (2**64 - 5, 0),
    ],
)
def test_times_are_those_of_years_that_there_are(sent: int, read: int) -> None:
    timestamp = b"\x00\x40" + struct.pack(">Q", sent)
    header = long(b"", fields(("at", b"T" + struct.pack(">Q", sent))))
    moment = datetime.fromtimestamp(read, UTC).replace(tzinfo=None)

    assert decode_properties(timestamp) == {"timestamp": read}
    assert origin_of(timestamp).timestamp == read
    assert decode_table(header)[0] == {"at": moment}


def test_a_table_nested_too_deep_is_cut_and_says_so() -> None:
    value = b"V"
    for _ in range(5_000):
        value = long(b"F", fields(("a", value)))

    table, _ = decode_table(long(b"", fields(("deep", value), ("flat", b"t\x01"))))

    assert table["flat"] is True
    assert "deep" in table[UNREAD_HEADER]
    pickle.dumps(table)


def test_an_unknown_type_loses_what_follows_it_in_its_table_alone() -> None:
    inner = long(b"F", fields(("a", b"t\x01"), ("b", b"Z??"), ("c", b"t\x01")))

    table, _ = decode_table(long(b"", fields(("in", inner), ("after", b"t\x01"))))

    assert table == {
        "in": {"a": True},
        "after": True,
        UNREAD_HEADER: "b: unknown type 'Z'",
    }


def test_a_table_has_only_so_many_fields() -> None:
    table, _ = decode_table(long(b"", fields(("many", long(b"A", b"V" * 100_000)))))

    assert len(table["many"]) < 2_000
    assert "fields" in table[UNREAD_HEADER]


def test_a_name_that_is_no_utf8_is_written_out() -> None:
    assert decode_table(long(b"", b"\x02a\xfft\x01"))[0] == {r"a\xff": True}
