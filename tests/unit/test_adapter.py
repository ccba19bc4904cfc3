"""Messages of a domain queue, whatever their headers say, go to its task."""

from __future__ import annotations

import json
import pickle
from typing import Any

import amqp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtasks.amqp import headers
from meshtasks.amqp.content import Properties
from meshtasks.amqp.receiving import Message
from meshtasks.records.envelope import envelope_of
from meshtasks.worker.batching import Adapted, adapt

QUEUE = "sensors.temperature"


def adapted(
    body: bytes,
    max_bytes: int = 1000,
    *,
    exchange: str = "sensors",
    encoded: bytes = b"",
    **properties: Any,
) -> Adapted:
    """A message with these properties, or with these bytes in their place."""
    encoded = encoded or amqp.Message(**properties)._serialize_properties()  # noqa: SLF001
    message = Message(
        body,
        Properties(encoded),
        delivery_tag=7,
        exchange=exchange,
        routing_key="sensors.temperature.attic",
    )
    return adapt(message, QUEUE, max_bytes, now=5.0)


def test_plain_json_is_taken_as_it_is() -> None:
    delivery, dead = adapted(b'{"value":1}', message_id="m1")

    assert dead is None
    assert delivery.body == b'{"value":1}'
    assert (delivery.exchange, delivery.routing_key) == (
        "sensors",
        "sensors.temperature.attic",
    )


def test_a_message_published_again_keeps_its_first_exchange_and_key() -> None:
    table = {headers.EXCHANGE: "amq.topic", headers.ROUTING_KEY: "sensors.x.y"}

    delivery, _ = adapted(b"1", exchange="", application_headers=table)

    assert (delivery.exchange, delivery.routing_key) == ("amq.topic", "sensors.x.y")


def test_an_empty_body_is_empty_bytes() -> None:
    assert adapted(b"").delivery.body == b""


def test_a_body_over_the_limit_is_dead_unread() -> None:
    delivery, dead = adapted(b"x" * 1001)

    assert dead is not None
    assert "1001 bytes" in dead.reason
    assert len(delivery.body) == 1001


def test_a_celery_call_of_the_queues_own_task_gives_its_records() -> None:
    body = json.dumps([[[{"value": 1}]], {}, {"chord": None}]).encode()
    table = {"task": QUEUE, "id": "abc", "lang": "py", "x-tenant": "attic"}

    delivery, dead = adapted(body, application_headers=table)

    assert dead is None
    assert json.loads(delivery.body) == [{"value": 1}]
    assert delivery.properties["message_id"] == "abc"
    assert delivery.headers == {"x-tenant": "attic"}


def test_a_celery_call_of_another_task_is_dead() -> None:
    table = {"task": "celery.chord_unlock", "id": "abc"}

    dead = adapted(b"[[], {}, {}]", application_headers=table).dead

    assert dead is not None
    assert "celery.chord_unlock" in dead.reason


def test_a_celery_call_that_cannot_be_unpacked_is_dead() -> None:
    table = {"task": QUEUE, "id": "abc"}

    dead = adapted(b"\x80pickle", application_headers=table).dead

    assert dead is not None
    assert dead.error_type == "UndecodableMessage"


SURROGATE = b'[[[{"location":"\\ud800"}]], {}, {}]'


def test_a_call_with_a_text_that_utf8_cannot_hold_is_left_to_validation() -> None:
    delivery, dead = adapted(SURROGATE, application_headers={"task": QUEUE})

    assert dead is None
    assert delivery.body == b'[{"location": "\\ud800"}]'


@pytest.mark.parametrize("odd", [7, ["abc"], {"a": 1}, b"\xff", "", True])
def test_an_id_of_a_call_that_is_no_text_is_no_message_id(odd: Any) -> None:
    table = {"task": QUEUE, "id": odd}

    delivery, _ = adapted(b"[[1], {}, {}]", application_headers=table)

    assert delivery.properties["message_id"] is None


def test_a_long_id_of_a_call_becomes_one_that_amqp_takes() -> None:
    table = {"task": QUEUE, "id": "\N{SNOWMAN}" * 200}

    delivery, _ = adapted(b"[[1], {}, {}]", application_headers=table)

    assert delivery.properties["message_id"] == "\N{SNOWMAN}" * 85


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text()
    | st.floats()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)


@given(
    body=st.binary()
    | st.sampled_from([SURROGATE, b"[[1e999], {}, {}]", b"[" * 20_000]),
    table=st.dictionaries(
        st.sampled_from(["task", "id", headers.EXCHANGE, headers.ATTEMPT, "x-death"]),
        json_values | st.just(QUEUE),
    ),
    exchange=st.sampled_from(["", "sensors", "dead.letter"]),
)
def test_it_never_raises_and_can_always_be_sent_to_the_pool(
    body: bytes, table: dict[str, Any], exchange: str
) -> None:
    delivery, _ = adapted(body, 30_000, exchange=exchange, application_headers=table)

    pickle.dumps(delivery.to_wire())


@given(st.binary(max_size=300))
def test_properties_of_any_bytes_are_taken(encoded: bytes) -> None:
    delivery, _ = adapted(b"1", encoded=encoded or b"\0")

    pickle.dumps(envelope_of(delivery.to_wire(), QUEUE))
