"""Messages of a domain queue, whatever their headers say, go to its task."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshtasks.messaging import headers
from meshtasks.worker.adapter import Adapted, adapt

QUEUE = "sensors.temperature"


def adapted(
    body: Any, max_bytes: int = 1000, *, exchange: str = "sensors", **properties: Any
) -> Adapted:
    info = {
        "delivery_tag": 7,
        "exchange": exchange,
        "routing_key": "sensors.temperature.attic" if exchange else QUEUE,
        "redelivered": False,
    }
    message = SimpleNamespace(body=body, properties=properties, delivery_info=info)
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
    assert adapted("").delivery.body == b""


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


@given(
    body=st.binary() | st.text(),
    table=st.none()
    | st.dictionaries(
        st.sampled_from(["task", "id", headers.EXCHANGE, headers.ATTEMPT, "x-death"]),
        st.none() | st.integers() | st.text() | st.lists(st.integers()),
    ),
)
def test_it_never_raises(body: bytes | str, table: dict[str, Any] | None) -> None:
    adapted(body, application_headers=table)
