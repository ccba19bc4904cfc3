"""What is acknowledged and published after a batch."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from msgspec.structs import replace

from meshtasks.amqp import headers
from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.publisher import Outgoing
from meshtasks.amqp.queues import RetryPolicy
from meshtasks.flows.circuit import FailedTry
from meshtasks.outcome import Dead, Retry
from meshtasks.records.envelope import Envelope
from meshtasks.worker.resolution import OutcomeResolver, Resolution
from meshtasks.worker.results import BatchResult, Failure

NOW = 1_800_000_000.0
POLICY = RetryPolicy(max_retries=2, retry_backoff=5, retry_jitter=False)


@pytest.fixture
def resolver() -> OutcomeResolver:
    return OutcomeResolver("sensors.temperature", POLICY, (1, 5, 30), "worker@host")


def delivery(
    tag: int, body: bytes = b"{}", table: dict[str, Any] | None = None
) -> Delivery:
    properties = {"application_headers": table or {}, "message_id": f"m{tag}"}
    key = "sensors.temperature.kitchen"
    return Delivery(tag, body, "sensors", key, properties, False, NOW)


def resolve(
    resolver: OutcomeResolver,
    deliveries: list[Delivery],
    *failures: Failure,
    down: str = "",
) -> Resolution:
    result = BatchResult(len(deliveries), len(deliveries), failures)
    verdicts = {down: FailedTry(counts=False)} if down else {}
    return resolver.resolve(deliveries, result, verdicts=verdicts, task_id="t", now=NOW)


def only(resolution: Resolution) -> Outgoing:
    assert len(resolution.outgoing) == 1
    return resolution.outgoing[0]


def table_of(message: Outgoing) -> dict[str, object]:
    assert message.headers is not None
    return message.headers


def test_done_messages_are_acknowledged(resolver: OutcomeResolver) -> None:
    resolution = resolve(resolver, [delivery(1), delivery(2)])

    assert resolution == Resolution(done=[1, 2])


def test_a_dead_message_is_published_whole_before_it_is_acknowledged(
    resolver: OutcomeResolver,
) -> None:
    bad = delivery(2, b"not json")

    resolution = resolve(
        resolver, [delivery(1), bad], Failure(1, Dead("not JSON", "UndecodableMessage"))
    )

    letter = only(resolution)
    assert (resolution.done, resolution.moved) == ([1], [2])
    assert (letter.exchange, letter.routing_key) == ("dead.letter", "#")
    assert letter.body == b"not json"
    assert letter.properties is not None
    assert letter.properties["message_id"] == "m2"
    table = table_of(letter)
    assert table[headers.EXCHANGE] == "sensors"
    assert table[headers.ROUTING_KEY] == "sensors.temperature.kitchen"
    assert table[headers.QUEUE] == "sensors.temperature"
    assert table[headers.REASON] == "not JSON"
    assert table[headers.ERROR_TYPE] == "UndecodableMessage"
    assert table[headers.WORKER] == "worker@host"


def test_a_dead_record_of_an_array_is_published_alone(
    resolver: OutcomeResolver,
) -> None:
    array = delivery(1, b'[{"value":1},{"value":"x"}]')

    letter = only(
        resolve(resolver, [array], Failure(0, Dead("x"), b'{"value":"x"}', 1))
    )

    assert letter.body == b'{"value":"x"}'
    assert table_of(letter)[headers.RECORD_INDEX] == 1


def test_a_retry_waits_and_comes_back_to_the_failing_queue(
    resolver: OutcomeResolver,
) -> None:
    message = only(resolve(resolver, [delivery(1)], Failure(0, Retry("refused"))))

    assert (message.exchange, message.routing_key) == ("retry.5", "sensors.temperature")
    assert table_of(message)[headers.ATTEMPT] == 1
    assert table_of(message)[headers.FIRST_FAILED_AT] == NOW
    assert table_of(message)[headers.RECEIVED_AT] == NOW


def test_the_backoff_doubles_with_every_attempt(resolver: OutcomeResolver) -> None:
    again = delivery(1, table={headers.ATTEMPT: 1, headers.FIRST_FAILED_AT: NOW - 5})

    message = only(resolve(resolver, [again], Failure(0, Retry("refused"))))

    assert message.exchange == "retry.5"  # 10 s, in the longest level not above it
    assert table_of(message)[headers.ATTEMPT] == 2
    assert table_of(message)[headers.FIRST_FAILED_AT] == NOW - 5


@pytest.mark.parametrize(
    ("asked_seconds", "exchange"), [(3, "retry.5"), (20, "retry.30"), (45, "retry.30")]
)
def test_nobody_is_asked_again_before_the_wait_they_asked_for(
    resolver: OutcomeResolver, asked_seconds: float, exchange: str
) -> None:
    busy = Retry("429", retry_after_seconds=asked_seconds)

    message = only(resolve(resolver, [delivery(1)], Failure(0, busy)))

    assert message.exchange == exchange  # the longest, if none is long enough


def test_a_message_is_dead_once_its_retries_are_used_up(
    resolver: OutcomeResolver,
) -> None:
    tired = delivery(1, table={headers.ATTEMPT: 2})

    letter = only(resolve(resolver, [tired], Failure(0, Retry("refused"))))

    assert letter.exchange == "dead.letter"
    assert table_of(letter)[headers.RETRIES] == 2
    assert table_of(letter)[headers.REASON] == (
        "still failing after 2 retries; last: refused"
    )


def test_whoever_waits_for_a_message_is_told_when_it_is_given_up() -> None:
    def tell(lost: Envelope, reason: str) -> list[Outgoing]:
        return [Outgoing("ai", lost.routing_key, f"{lost.body!r} {reason}".encode())]

    resolver = OutcomeResolver(
        "ai.inference.requests", POLICY, (1,), "worker@host", tell
    )
    first = delivery(1, b"[1,2,3]")
    last = delivery(2, b"[4,5,6]", {headers.ATTEMPT: 2})
    some = Retry("refused")

    resolution = resolve(
        resolver, [first, last], Failure(0, some), Failure(1, some, b"[5]")
    )

    retry, told, letter = resolution.outgoing
    assert (retry.exchange, letter.exchange) == ("retry.1", "dead.letter")
    assert told.routing_key == last.routing_key
    assert told.body == b"b'[5]' still failing after 2 retries; last: refused"


def test_a_fault_that_another_message_met_does_not_count(
    resolver: OutcomeResolver,
) -> None:
    tired = delivery(1, table={headers.ATTEMPT: 2})

    message = only(resolve(resolver, [tired], Failure(0, Retry("429", tried=False))))

    assert message.exchange == "retry.5"
    assert table_of(message)[headers.ATTEMPT] == 2


def test_attempts_while_the_sink_is_down_do_not_count(
    resolver: OutcomeResolver,
) -> None:
    tired = delivery(1, table={headers.ATTEMPT: 2})
    outage = Failure(0, Retry("refused", sink="timeseries"))

    message = only(resolve(resolver, [tired], outage, down="timeseries"))

    assert message.exchange.startswith("retry.")
    assert table_of(message)[headers.ATTEMPT] == 2


def test_a_message_older_than_its_maximum_age_is_dead_even_then(
    resolver: OutcomeResolver,
) -> None:
    old = delivery(1, table={headers.FIRST_FAILED_AT: NOW - POLICY.max_age_seconds - 1})
    outage = Failure(0, Retry("refused", sink="timeseries"))

    letter = only(resolve(resolver, [old], outage, down="timeseries"))

    assert letter.exchange == "dead.letter"
    assert "max_age" in str(table_of(letter)[headers.REASON])


def test_the_death_history_of_the_broker_is_not_carried_over(
    resolver: OutcomeResolver,
) -> None:
    replayed = delivery(1, table={"x-death": [{"count": 1}], "x-tenant": "attic"})

    table = table_of(only(resolve(resolver, [replayed], Failure(0, Retry("refused")))))

    assert "x-death" not in table
    assert table["x-tenant"] == "attic"


@pytest.mark.parametrize("outcome", [Dead("bad"), Retry("busy")])
def test_what_would_drop_a_message_while_it_waits_is_not_published_again(
    resolver: OutcomeResolver, outcome: Dead | Retry
) -> None:
    """An expiration would; so would the user id of somebody else."""
    properties = {"expiration": "60000", "user_id": "devices", "app_id": "esp"}
    sent = replace(delivery(1), properties=properties)

    message = only(resolve(resolver, [sent], Failure(0, outcome)))

    assert message.properties
    assert not {"expiration", "user_id"} & message.properties.keys()
    assert message.properties["app_id"] == "esp"


@pytest.mark.parametrize("attempt", [10**9, 2**63 - 1, True, -1, "x"])
def test_whatever_the_attempt_it_is_decided(
    resolver: OutcomeResolver, attempt: object
) -> None:
    sent = delivery(1, table={headers.ATTEMPT: attempt})
    assert only(resolve(resolver, [sent], Failure(0, Retry("busy"))))


def test_a_message_lost_alone_is_retried_alone(resolver: OutcomeResolver) -> None:
    resolution = resolver.lost(delivery(1), "signal 9 (SIGKILL)", "t", NOW)

    assert table_of(only(resolution))[headers.SINGLE] == 1
    assert resolution.moved == [1]


def test_held_messages_are_set_aside_without_counting(
    resolver: OutcomeResolver,
) -> None:
    resolution = resolver.set_aside([delivery(1), delivery(2)], NOW)

    assert resolution.moved == [1, 2]
    assert [message.exchange for message in resolution.outgoing] == ["retry.1"] * 2
    assert table_of(resolution.outgoing[0])[headers.ATTEMPT] == 0


def test_a_flow_that_fails_while_a_message_is_given_up_loses_nothing(
    resolver: OutcomeResolver,
) -> None:
    def fails(*_: object) -> Any:
        raise KeyError

    odd = dataclasses.replace(resolver, on_exhausted=fails, originals=fails)
    tried = delivery(1, table={headers.ATTEMPT: POLICY.max_retries})

    resolution = resolve(odd, [tried], Failure(0, Retry("away")))

    assert only(resolution).exchange == "dead.letter"
    assert resolution.moved == [1]
