"""What is known of a dead letter, which are meant, and how they are counted."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from meshtasks.amqp import headers
from meshtasks.amqp.dead_letter_groups import Groups, Selection
from meshtasks.amqp.dead_letters import (
    DeadLetter,
    dead_letter_of,
    history_of,
    replay_messages,
    requeue_targets,
)
from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.publisher import Outgoing
from tests.support.dead_letters import NOON, dead_letter
from tests.support.topologies import shipped_topology

LETTER = DeadLetter(
    id="0123456789ab",
    kind="SchemaMismatch",
    reason='value: expected a number, got the text "n/a"',
    queue="sensors.temperature",
    exchange="sensors",
    routing_key="sensors.temperature.attic",
    failed_at=NOON,
)


def delivered(outgoing: Outgoing, **changes: Any) -> Delivery:
    """A message as it is read from the dead-letter queue."""
    table = outgoing.headers or {}
    fields: dict[str, Any] = {
        "tag": 1,
        "body": outgoing.body,
        "exchange": table.get(headers.EXCHANGE, outgoing.exchange),
        "routing_key": table.get(headers.ROUTING_KEY, outgoing.routing_key),
        "properties": {
            **(outgoing.properties or {}),
            "application_headers": table,
        },
        "redelivered": False,
        "received_at": NOON,
    }
    return Delivery(**fields | changes)


def by_the_broker(**last: Any) -> Delivery:
    """A message that the broker took from its queue itself."""
    death = {
        "queue": "sensors.humidity",
        "reason": "delivery_limit",
        "count": 1,
        "exchange": "sensors",
        "routing-keys": ["sensors.humidity.attic"],
        "time": datetime(2026, 11, 23, 12),  # noqa: DTZ001 - AMQP's has no zone
    }
    table = {"x-death": [death | last], "x-delivery-count": 21}
    properties = {"application_headers": table}
    return Delivery(1, b"{}", "dead.letter", "#", properties, False, NOON)


def sent_back(read: Delivery, replayed_at: str = "now") -> Outgoing:
    letter = dead_letter_of(read)
    queues = [letter.queue or "sensors.temperature"]
    (sent,) = replay_messages(read, letter, queues, replayed_at=replayed_at)
    return sent


class TestReading:
    def test_of_the_mesh(self) -> None:
        read = dead_letter_of(
            delivered(dead_letter(1, "no such unit", kind="UnknownUnit"))
        )

        assert read._replace(id="") == DeadLetter(
            "",
            "UnknownUnit",
            "no such unit",
            "sensors.temperature",
            "sensors",
            "sensors.temperature.attic",
            NOON,
            sensor="attic",
        )

    def test_of_the_broker(self) -> None:
        read = dead_letter_of(by_the_broker())

        assert read.kind == "delivery_limit"
        assert (read.queue, read.exchange) == ("sensors.humidity", "sensors")
        assert read.routing_key == "sensors.humidity.attic"
        assert read.failed_at == NOON

    def test_what_was_unroutable(self) -> None:
        read = dead_letter_of(
            Delivery(1, b"{}", "sensors", "sensors.x.y", {}, False, NOON)
        )

        assert (read.kind, read.queue) == ("Unroutable", None)
        assert (read.exchange, read.routing_key) == ("sensors", "sensors.x.y")

    def test_the_id_does_not_change_with_every_look(self) -> None:
        once, again = by_the_broker(), by_the_broker()
        again.properties["application_headers"]["x-delivery-count"] = 99
        assert dead_letter_of(once).id == dead_letter_of(again).id

    @pytest.mark.parametrize(
        "other",
        [
            dead_letter(2),
            dead_letter(1, "another reason"),
            dead_letter(1, body=b"{}"),
            dead_letter(1, failed_at=NOON + 1),
            dead_letter(1, queue="sensors.humidity"),
        ],
        ids=["message id", "reason", "body", "time", "queue"],
    )
    def test_letters_that_differ_have_different_ids(self, other: Outgoing) -> None:
        assert (
            dead_letter_of(delivered(dead_letter(1))).id
            != dead_letter_of(delivered(other)).id
        )


class TestSelecting:
    @pytest.mark.parametrize(
        "selection",
        [
            Selection(),
            Selection(ids={"0123"}),
            Selection(ids={"ffff", "0123456789ab"}),
            Selection(reason="schemamismatch"),
            Selection(reason="expected a NUMBER"),
            Selection(queue="sensors.temperature"),
            Selection(queue="sensors.*"),
            Selection(failed_before=NOON + 1),
            Selection(failed_after=NOON),
        ],
    )
    def test_taken(self, selection: Selection) -> None:
        assert selection.matches(LETTER)

    @pytest.mark.parametrize(
        "selection",
        [
            Selection(ids={"123"}),
            Selection(reason="UnknownUnit"),
            Selection(queue="sensors"),
            Selection(failed_before=NOON),
            Selection(failed_after=NOON + 1),
            Selection(ids={"0123"}, queue="sensors.humidity"),
        ],
    )
    def test_not_taken(self, selection: Selection) -> None:
        assert not selection.matches(LETTER)

    def test_a_letter_whose_time_nobody_noted_is_not_hidden(self) -> None:
        timeless = LETTER._replace(failed_at=None)
        assert Selection(failed_before=NOON).matches(timeless)
        assert Selection(failed_after=NOON).matches(timeless)


def test_letters_are_counted_by_queue_and_what_they_died_of() -> None:
    groups = Groups()
    for minute, text in enumerate(["n/a", "--", "21,5"]):
        groups.add(
            LETTER._replace(
                reason=f'value: expected a number, got the text "{text}"',
                failed_at=NOON + 60 * minute,
                replays=minute,
            )
        )
    groups.add(LETTER._replace(queue="sensors.humidity"))

    first, second = groups.largest_first()

    assert (first.count, second.count) == (3, 1)
    assert first.first_failed_at == NOON
    assert first.last_failed_at == NOON + 120
    assert first.replayed == 2
    assert "21,5" in first.example.reason
    assert second.example.queue == "sensors.humidity"


def test_a_cause_is_one_whatever_queue_it_was_in() -> None:
    groups = Groups()
    for queue in ("sensors.humidity", "sensors.temperature", "sensors.humidity"):
        groups.add(LETTER._replace(queue=queue))
    groups.add(LETTER._replace(kind="UnknownUnit", routing_key="a"))

    first, second = groups.causes()

    assert (first.count, second.count, groups.total) == (3, 1, 4)
    assert [group.example.queue for group in first.groups] == [
        "sensors.humidity",
        "sensors.temperature",
    ]
    assert second.routing_keys == ["a"]


class TestGivingBack:
    def test_it_goes_to_its_queue_alone(self) -> None:
        read = delivered(dead_letter(1))
        sent = sent_back(read)

        assert (sent.exchange, sent.routing_key) == ("", "sensors.temperature")
        assert sent.body == read.body
        assert sent.properties
        assert sent.properties["message_id"] == "1"

    def test_it_knows_where_it_came_from_and_nothing_of_its_failure(self) -> None:
        read = delivered(dead_letter(1, traceback="Traceback …"))
        sent = sent_back(read)

        assert sent.headers
        assert sent.headers[headers.EXCHANGE] == "sensors"
        assert sent.headers[headers.ROUTING_KEY] == "sensors.temperature.attic"
        assert sent.headers[headers.RECEIVED_AT] == NOON - 1
        assert not headers.OF_A_FAILURE & set(sent.headers)

    def test_it_remembers_what_it_died_of_each_time(self) -> None:
        message = dead_letter(1, "first")
        for run, reason in enumerate(["second", "third"]):
            read = delivered(message)
            sent = sent_back(read, f"run {run}")
            message = dead_letter(1, reason)
            assert sent.headers
            assert message.headers
            message = message._replace(headers=sent.headers | message.headers)
        last = delivered(message)

        assert dead_letter_of(last).replays == 2
        assert dead_letter_of(last).replayed_at == "run 1"
        told = [(each["reason"], each["replayed_at"]) for each in history_of(last)]
        assert told == [("first", "run 0"), ("second", "run 1")]

    def test_it_remembers_the_last_ten_times(self) -> None:
        message = dead_letter(1, "reason 0")
        for run in range(1, 15):
            read = delivered(message)
            sent = sent_back(read, f"run {run}")
            message = dead_letter(1, f"reason {run}")
            assert sent.headers
            assert message.headers
            message = message._replace(headers=sent.headers | message.headers)
        told = [each["reason"] for each in history_of(delivered(message))]
        assert told == [f"reason {run}" for run in range(4, 14)]

    def test_what_the_broker_took_goes_back_without_the_brokers_headers(self) -> None:
        read = by_the_broker()
        sent = sent_back(read)

        assert (sent.exchange, sent.routing_key) == ("", "sensors.humidity")
        assert sent.headers
        assert sent.headers[headers.EXCHANGE] == "sensors"
        assert sent.headers[headers.RECEIVED_AT] == NOON
        assert not headers.BROKER_MANAGED & set(sent.headers)

    def test_what_was_unroutable_goes_to_the_queues_that_its_exchange_leads_to(
        self,
    ) -> None:
        key = "alerts.cellar"
        read = Delivery(1, b"{}", "alerts", key, {}, False, NOON)
        queues = requeue_targets(dead_letter_of(read), shipped_topology())
        sent = replay_messages(read, dead_letter_of(read), queues, replayed_at="now")

        assert [(each.exchange, each.routing_key) for each in sent] == [
            ("", "alerts.critical"),
            ("", "alerts.notifications"),
        ]
        assert sent[0].headers
        assert sent[0].headers[headers.EXCHANGE] == "alerts"
        assert sent[0].headers[headers.ROUTING_KEY] == key


class TestWaysBack:
    topology = shipped_topology()

    def test_to_the_queue_it_failed_in(self) -> None:
        assert requeue_targets(LETTER, self.topology) == ("sensors.temperature",)

    @pytest.mark.parametrize(
        "queue",
        [
            "commands",
            "commands.answers",
            "dead.letter.queue",
            "retry.5",
            "deleted.meanwhile",
            "",
        ],
    )
    def test_to_no_queue_but_those_of_the_domains(self, queue: str) -> None:
        assert isinstance(
            requeue_targets(LETTER._replace(queue=queue), self.topology), str
        )

    def test_a_binding_that_was_added_opens_one(self) -> None:
        bound = LETTER._replace(queue=None)
        unbound = bound._replace(routing_key="sensors.nobody.asked")
        assert requeue_targets(bound, self.topology) == ("sensors.temperature",)
        assert "no binding" in requeue_targets(unbound, self.topology)

    @pytest.mark.parametrize("exchange", ["", "dead.letter", "of.somebody.else"])
    def test_what_was_put_there_by_hand_came_from_nowhere(self, exchange: str) -> None:
        foreign = LETTER._replace(queue=None, exchange=exchange, routing_key="#")
        assert isinstance(requeue_targets(foreign, self.topology), str)
