"""The balance of a demo balance, or say why not."""

from __future__ import annotations

from dataclasses import replace

from meshtasks.demo.reconciliation import (
    AlertCounts,
    Archived,
    Points,
    Published,
    QueueCount,
    Reconciliation,
    Row,
)
from meshtasks.observation.seen import Seen

KIND = "sensors.temperature"
BALANCED = Reconciliation(
    published=Published(
        messages=90,
        records=100,
        messages_by_kind={KIND: 90},
        good_records_by_kind={KIND: 98},
        bad_records_by_kind={KIND: 2},
    ),
    points=Points({KIND: 98}),
    calls={},
    notifications=0,
    alert_counts=AlertCounts(),
    archived=Archived({KIND: 98}),
    seen=Seen(dead_letters=2, dead_by_queue={KIND: 2}),
    flows=[QueueCount(KIND, came_in=90, acknowledged=90, dead=2)],
    dead_in_queue=2,
)


def test_they_balance_when_each_record_is_stored_or_a_dead_letter() -> None:
    assert BALANCED.faults() == []
    assert BALANCED.rows() == [Row(KIND, 98, 2, 98, 2, archived=98)]
    assert BALANCED.total() == Row("all", 98, 2, 98, 2)
    assert BALANCED.total().difference == 0


def test_a_point_that_is_missing_is_found() -> None:
    balance = replace(BALANCED, points=Points({KIND: 97}))

    assert balance.total().difference == 1
    (fault,) = balance.faults()
    assert fault.startswith("sensors.temperature: 98 good records and 97 stored")


def test_a_record_that_is_not_archived_is_found() -> None:
    (fault,) = replace(BALANCED, archived=Archived({KIND: 97})).faults()

    assert fault.endswith(", 97 archived")


def test_a_good_record_in_the_place_of_a_bad_one_is_found() -> None:
    balance = replace(
        BALANCED,
        points=Points({KIND: 97}),
        seen=Seen(dead_letters=3, dead_by_queue={KIND: 3}),
        dead_in_queue=3,
    )

    assert balance.total().difference == 0
    assert len(balance.faults()) == 1


def test_more_than_was_published_has_an_explanation() -> None:
    balance = replace(BALANCED, points=Points({KIND: 99}))

    assert balance.faults()[0].endswith("did something else publish meanwhile?")


def test_duplicates_alone_are_no_fault() -> None:
    balance = replace(
        BALANCED,
        points=Points({KIND: 98}, repeated=5),
        seen=replace(BALANCED.seen, repeated_dead_letters=1),
        dead_in_queue=3,
    )

    assert balance.faults() == []


def test_a_dead_letter_that_never_reached_its_queue_is_found() -> None:
    balance = replace(BALANCED, dead_in_queue=1)

    assert balance.faults() == [
        "the dead-letter queue has grown by 1, and 2 dead letters were seen"
    ]


def test_messages_left_in_a_queue_are_found() -> None:
    balance = replace(
        BALANCED,
        flows=[QueueCount(KIND, came_in=90, acknowledged=87, dead=2, left=3)],
        waiting={"retry.5": 3},
    )

    assert balance.faults() == [
        f"{KIND}: 90 messages came in, 85 are done, 2 dead, 3 left",
        "3 messages are left in retry.5",
    ]


def test_a_message_that_vanished_from_a_queue_is_found() -> None:
    balance = replace(
        BALANCED, flows=[QueueCount(KIND, came_in=90, acknowledged=89, dead=2)]
    )

    assert balance.faults() == [
        f"{KIND}: 90 messages came in, 87 are done, 2 dead, 0 left"
    ]


def test_a_message_that_never_came_into_its_queue_is_found() -> None:
    balance = replace(
        BALANCED, flows=[QueueCount(KIND, came_in=89, acknowledged=89, dead=2)]
    )

    assert balance.faults() == [f"{KIND}: 90 messages were published, and 89 came in"]


def test_a_retried_message_is_acknowledged_twice_and_done_once() -> None:
    flow = QueueCount(KIND, came_in=10, acknowledged=13, retried=3, dead=1)

    assert (flow.done, flow.difference) == (9, 0)


def test_a_message_that_the_broker_took_is_dead_though_never_acknowledged() -> None:
    flow = QueueCount(KIND, came_in=10, acknowledged=9, dead=2, dead_by_broker=1)

    assert (flow.done, flow.difference) == (8, 0)


def test_what_the_broker_did_not_take_is_found() -> None:
    published = BALANCED.published.model_copy(
        update={"unconfirmed_records": 4, "dropped_records": 1}
    )

    faults = replace(BALANCED, published=published).faults()

    assert faults[0].startswith("4 records were not confirmed")
    assert faults[1] == "1 records were never published"


def test_an_empty_run_does_not_balance() -> None:
    balance = replace(
        BALANCED,
        published=Published(),
        points=Points({}),
        archived=Archived(),
        seen=Seen(),
        flows=[],
        dead_in_queue=0,
    )

    assert balance.faults() == ["nothing was published"]


# --- what is not only points ----------------------------------------------------


def test_events_are_stored_where_their_webhook_took_them() -> None:
    kind = "sensors.motion"
    balance = replace(
        BALANCED,
        published=Published(records=5, good_records_by_kind={kind: 5}),
        points=Points({}),
        calls={kind: 4},
        archived=Archived({kind: 5}),
        seen=Seen(),
        flows=[],
        dead_in_queue=0,
    )

    assert balance.rows() == [Row(kind, 5, 0, 4, 0, archived=5)]
    assert len(balance.faults()) == 1


def test_requests_are_answered_and_their_answers_are_results() -> None:
    balance = replace(
        BALANCED,
        published=Published(
            records=9,
            good_records_by_kind={
                "ai.inference.requests": 5,
                "ai.inference.results": 3,
            },
            bad_records_by_kind={"ai.inference.requests": 1},
        ),
        points=Points({"ai.inference.results": 9}),
        archived=Archived({"ai.inference.results": 9}),
        seen=Seen(
            dead_letters=1,
            dead_by_queue={"ai.inference.requests": 1},
            answers=5,
            refusals=1,
        ),
        flows=[],
        dead_in_queue=1,
    )

    assert balance.rows() == [
        Row("ai.inference.requests", 5, 1, 5, 1, archived=None),
        Row("ai.inference.results", 9, 0, 9, 0, archived=9),
    ]
    assert balance.faults() == []


def test_alerts_of_rules_are_expected_in_the_alert_book_too() -> None:
    balance = replace(
        BALANCED,
        published=Published(
            records=6,
            good_records_by_kind={"alerts": 4},
            bad_records_by_kind={"alerts": 1},
        ),
        points=Points({}),
        notifications=2,
        alert_counts=AlertCounts(taken_in=6, sent=2),
        archived=Archived({"alerts": 6}, critical=2),
        seen=Seen(
            dead_letters=2,
            dead_by_queue={"alerts.critical": 1, "alerts.notifications": 1},
            alerts_of_rules=2,
            alerts_by_severity={"critical": 2, "info": 4},
        ),
        flows=[],
    )

    assert balance.rows() == [Row("alerts", 6, 1, 6, 1, archived=6)]
    assert balance.faults() == []
    lost = replace(
        balance, notifications=1, alert_counts=AlertCounts(taken_in=5, sent=2)
    )
    assert [fault.partition(":")[0] for fault in lost.faults()] == [
        "alerts",
        "2 notifications were sent, and 1 arrived",
    ]
    half = replace(
        balance, seen=replace(balance.seen, dead_by_queue={"alerts.notifications": 1})
    )
    (fault,) = half.faults()
    assert fault.startswith("0 alerts died in alerts.critical, and 1 in alerts.not")
