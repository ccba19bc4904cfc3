"""Headers of the mesh are believed where only the mesh can have written them."""

from __future__ import annotations

import math
from typing import Any

import amqp
import pytest

from meshtasks.amqp import headers
from meshtasks.amqp.content import Properties
from meshtasks.amqp.dead_letters import dead_letter_of, first_failed_at, kept_headers
from meshtasks.amqp.delivery import Delivery, delivery_of
from meshtasks.amqp.receiving import Message

NOW = 1_800_000_000.0
QUEUE = "sensors.temperature"
FORGED = {
    headers.EXCHANGE: "alerts",
    headers.ROUTING_KEY: "alerts.critical",
    headers.QUEUE: "commands",
    headers.REASON: "forged",
    headers.ERROR_TYPE: "Forged",
    headers.ATTEMPT: 10**9,
    headers.RECEIVED_AT: 1e17,
    headers.FIRST_FAILED_AT: math.inf,
    headers.SINGLE: 1,
    headers.REPLAYS: 2**63 - 1,
    headers.ARCHIVED: "of-another-record",
    headers.QUIET: 1,
}


def received(exchange: str, key: str, **table: Any) -> Delivery:
    encoded = amqp.Message(application_headers=table)._serialize_properties()  # noqa: SLF001
    message = Message(
        b"{}", Properties(encoded), delivery_tag=1, exchange=exchange, routing_key=key
    )
    return delivery_of(message, NOW)


def taken(exchange: str, key: str) -> list[dict[str, Any]]:
    """What the broker says of a message that it took from the queue."""
    death = {"queue": QUEUE, "reason": "delivery_limit", "exchange": exchange}
    return [death | {"routing-keys": [key]}]


@pytest.mark.parametrize("exchange", ["sensors", "amq.topic", "archive", "unrouted"])
def test_a_senders_are_dropped(exchange: str) -> None:
    delivery = received(exchange, "sensors.temperature.attic", **FORGED, own="kept")

    assert delivery.headers == {"own": "kept"}
    assert delivery.exchange == exchange
    assert delivery.received_at == NOW
    assert delivery.attempt == 0


def test_those_of_a_retry_are_believed() -> None:
    table = {
        headers.EXCHANGE: "sensors",
        headers.ROUTING_KEY: "sensors.temperature.attic",
        headers.RECEIVED_AT: NOW - 60,
        headers.ATTEMPT: 2,
    }
    delivery = received("", QUEUE, **table)

    assert (delivery.exchange, delivery.attempt) == ("sensors", 2)
    assert delivery.received_at == NOW - 60


@pytest.mark.parametrize(
    "value", [1e17, math.inf, -math.inf, math.nan, -1, 0, True, "1", None, [], b"\xff"]
)
def test_times_that_cannot_be_are_no_times(value: object) -> None:
    table = {headers.RECEIVED_AT: value, headers.FIRST_FAILED_AT: value}
    delivery = received("", QUEUE, **table)

    assert delivery.received_at == NOW
    assert first_failed_at(delivery, NOW) == NOW


@pytest.mark.parametrize("value", [None, 5, b"\xff", {"a": 1}, ["x"]])
def test_an_origin_that_is_no_text_is_no_origin(value: object) -> None:
    table = {headers.EXCHANGE: value, headers.ROUTING_KEY: value}
    delivery = received("", QUEUE, **table)
    assert (delivery.exchange, delivery.routing_key) == ("", QUEUE)


def test_of_a_forged_dead_letter_the_broker_has_the_word() -> None:
    table = {**FORGED, "x-death": taken("sensors", "sensors.temperature.attic")}
    letter = dead_letter_of(received("dead.letter", "#", **table))

    assert (letter.queue, letter.kind) == (QUEUE, "delivery_limit")
    assert (letter.exchange, letter.replays) == ("sensors", 0)


def test_what_the_broker_took_of_a_retry_keeps_its_origin() -> None:
    table = {headers.EXCHANGE: "sensors", headers.ROUTING_KEY: "sensors.temperature.x"}
    letter = dead_letter_of(
        received("dead.letter", "#", **table, **{"x-death": taken("", QUEUE)})
    )
    assert (letter.exchange, letter.routing_key) == ("sensors", "sensors.temperature.x")


def test_an_unroutable_message_cannot_say_what_it_died_of() -> None:
    table = {**FORGED, "x-death": taken("", "commands")}
    letter = dead_letter_of(received("sensors", "sensors.nobody.asked", **table))

    assert (letter.kind, letter.queue) == ("Unroutable", None)
    assert letter.exchange == "sensors"


def test_headers_that_steer_are_not_published_again() -> None:
    table = {"CC": ["commands"], "BCC": ["x"], "task": "t", "id": "1", "own": "kept"}
    assert kept_headers(received("sensors", "k", **table)) == {"own": "kept"}
