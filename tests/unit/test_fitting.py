"""Whatever a sender put into properties and headers, it can be published again."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from amqp.serialization import decode_properties_basic
from hypothesis import given
from hypothesis import strategies as st

from meshtasks.amqp import headers
from meshtasks.amqp.dead_letters import FailedMessage, dead_message
from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.frames import Outgoing, fitted, publish_frames
from meshtasks.outcome import Dead

FRAME_MAX = 131_072
_METHOD_FRAME_BYTES = 7 + 6 + 1 + 1 + 1 + 1  # no exchange, no routing key
_CONTENT_BYTES = 7 + 12


def published(message: Outgoing, frame_max: int = FRAME_MAX) -> dict[str, Any]:
    """The properties that a consumer gets."""
    assert message.exchange == message.routing_key == ""
    frames = publish_frames(fitted(message, frame_max), 1, frame_max)
    start = _METHOD_FRAME_BYTES + _CONTENT_BYTES
    properties: dict[str, Any]
    properties, _ = decode_properties_basic(frames, start)
    return properties


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def test_the_meshs_own_headers_stay_and_a_note_tells_of_the_others() -> None:
    sent = {f"user-{number}": "x" * 60_000 for number in range(3)}
    delivery = Delivery(
        1, b"{}", "sensors", "k", {"application_headers": sent}, False, 1.0
    )
    letter = dead_message(
        FailedMessage(delivery, "sensors.temperature", b"{}"),
        Dead("n" * 900, "SchemaMismatch", "t" * 4_000),
        task_id="t",
        worker="w",
        now=2.0,
    )._replace(exchange="", routing_key="")

    table = published(letter)["application_headers"]

    own = {name for name in letter.headers or {} if name.startswith("x-mesh-")}
    assert own <= table.keys()
    assert [name for name in table if name.startswith("user-")] == ["user-0", "user-1"]
    assert "user-2 (60," in table[headers.OMITTED]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2**64 - 1, "18446744073709551615"),
        (Decimal("1e50"), "Decimal('1E+50')"),
        (datetime(1, 1, 1, tzinfo=UTC), None),
        ({1, 2}, "{1, 2}"),
        (nested(5_000), None),
        (object, "<class 'object'>"),
    ],
)
def test_values_that_amqp_does_not_know_become_text(
    value: object, expected: str | None
) -> None:
    table = published(Outgoing("", "", b"", headers={"odd": value, "sound": 1}))[
        "application_headers"
    ]
    assert table["sound"] == 1
    assert isinstance(table["odd"], str)
    assert expected in (None, table["odd"])


def test_short_texts_are_cut() -> None:
    long = "é" * 200
    message = Outgoing(
        "",
        "",
        b"",
        message_id=long,
        headers={long: 1},
        properties={"correlation_id": long, "app_id": "\udcff" * 200, "priority": 999},
    )
    properties = published(message)
    assert properties["message_id"] == properties["correlation_id"] == "é" * 127
    assert list(properties["application_headers"]) == ["é" * 127]
    assert len(properties["app_id"].encode()) <= 255
    assert "priority" not in properties


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.datetimes()
    | st.decimals(),
    lambda some: (
        st.lists(some, max_size=3) | st.dictionaries(st.text(), some, max_size=3)
    ),
    max_leaves=10,
)


@given(
    table=st.dictionaries(st.text(max_size=300), values, max_size=8),
    properties=st.dictionaries(
        st.sampled_from(["message_id", "timestamp", "priority", "type", "odd"]), values
    ),
    frame_max=st.sampled_from([4_096, FRAME_MAX]),
)
def test_anything_fits(
    table: dict[str, Any], properties: dict[str, Any], frame_max: int
) -> None:
    message = Outgoing("", "", b"", headers=table, properties=properties)
    frames = publish_frames(fitted(message, frame_max), 1, frame_max)
    assert len(frames) <= frame_max + _METHOD_FRAME_BYTES
