"""Messages as frames: byte for byte what py-amqp writes."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import amqp
import pytest
from amqp.method_framing import frame_writer
from amqp.serialization import dumps
from amqp.spec import Basic
from hypothesis import given
from hypothesis import strategies as st

from meshtasks.amqp.frames import Outgoing, publish_frames

CHANNEL_ID = 3
FRAME_MAX = 4_096

short_text = st.text(max_size=60)
outgoing = st.builds(
    Outgoing,
    exchange=short_text,
    routing_key=short_text,
    body=st.binary(max_size=3 * FRAME_MAX),
    message_id=st.none() | short_text,
    timestamp=st.none() | st.floats(min_value=0, max_value=2**62),
    headers=st.none() | st.dictionaries(short_text, short_text | st.booleans()),
    properties=st.none()
    | st.fixed_dictionaries(
        {},
        optional={
            "content_type": short_text,
            "correlation_id": short_text,
            "priority": st.integers(0, 255),
            "delivery_mode": st.sampled_from([1, 2]),
        },
    ),
)


def written_by_py_amqp(message: Outgoing) -> bytes:
    """What its writer of single messages gives to the socket."""
    properties: dict[str, Any] = {
        "content_type": "application/json",
        "delivery_mode": 2,
        **(message.properties or {}),
    }
    if message.message_id is not None:
        properties["message_id"] = message.message_id
    if message.timestamp is not None:
        properties["timestamp"] = int(message.timestamp)
    if message.headers:
        properties["application_headers"] = message.headers
    written = bytearray()
    write = frame_writer(
        SimpleNamespace(frame_max=FRAME_MAX, bytes_sent=0),
        SimpleNamespace(write=written.extend),
    )
    arguments = (0, message.exchange, message.routing_key, True, False)
    content = amqp.Message(message.body, **properties)
    write(1, CHANNEL_ID, Basic.Publish, dumps("Bssbb", arguments), content)
    return bytes(written)


@given(outgoing)
def test_the_frames_are_those_of_py_amqp(message: Outgoing) -> None:
    # An empty string is the same as none to both.
    frames = publish_frames(message, CHANNEL_ID, FRAME_MAX)

    assert frames == written_by_py_amqp(message)


@pytest.mark.parametrize("size", [FRAME_MAX - 8, FRAME_MAX - 7, 2 * (FRAME_MAX - 8)])
def test_a_body_is_split_where_a_frame_is_full(size: int) -> None:
    message = Outgoing("readings", "key", b"x" * size)

    frames = publish_frames(message, CHANNEL_ID, FRAME_MAX)

    assert frames == written_by_py_amqp(message)


def test_a_routing_key_that_is_too_long_is_refused() -> None:
    with pytest.raises(struct.error):
        publish_frames(Outgoing("readings", "k" * 256, b""), CHANNEL_ID, FRAME_MAX)
