"""The books of a demo balance, or say why not."""

from __future__ import annotations

from dataclasses import replace

from meshtasks.cli.demo_books import Archived, Books, Published, Row, Stored
from meshtasks.cli.view.snapshot import Seen

KIND = "sensors.temperature"
BALANCED = Books(
    Published(
        messages=90,
        records=100,
        good_records_by_kind={KIND: 98},
        bad_records_by_kind={KIND: 2},
    ),
    Stored({KIND: 98}, repeated=0),
    Seen(dead_letters=2, dead_by_kind={KIND: 2}),
    Archived(objects=1, size_bytes=1_000, by_domain={}, repeated=0),
    dead_in_queue=2,
)


def test_they_balance_when_each_record_is_stored_or_a_dead_letter() -> None:
    assert BALANCED.faults() == []
    assert BALANCED.total() == Row("all", 98, 2, 98, 2)
    assert BALANCED.total().difference == 0


def test_a_point_that_is_missing_is_found() -> None:
    books = replace(BALANCED, stored=Stored({KIND: 97}, repeated=0))

    assert books.total().difference == 1
    (fault,) = books.faults()
    assert fault.startswith("sensors.temperature: 98 good records and 97 points")


def test_a_good_record_in_the_place_of_a_bad_one_is_found() -> None:
    seen = Seen(dead_letters=3, dead_by_kind={KIND: 3})
    books = replace(
        BALANCED, stored=Stored({KIND: 97}, repeated=0), seen=seen, dead_in_queue=3
    )

    assert books.total().difference == 0
    assert len(books.faults()) == 1


def test_more_than_was_published_has_an_explanation() -> None:
    books = replace(BALANCED, stored=Stored({KIND: 99}, repeated=0))

    assert books.faults()[0].endswith("did something else publish meanwhile?")


def test_duplicates_alone_are_no_fault() -> None:
    books = replace(
        BALANCED,
        stored=Stored({KIND: 98}, repeated=5),
        seen=replace(BALANCED.seen, repeated_dead_letters=1),
        dead_in_queue=3,
    )

    assert books.faults() == []


def test_a_dead_letter_that_never_reached_its_queue_is_found() -> None:
    books = replace(BALANCED, dead_in_queue=1)

    assert books.faults() == [
        "the dead-letter queue has grown by 1, and 2 dead letters were seen"
    ]


def test_messages_left_in_a_queue_are_found() -> None:
    books = replace(BALANCED, waiting={"retry.5": 3})

    assert books.faults() == ["3 messages are left in retry.5"]


def test_what_the_broker_did_not_take_is_found() -> None:
    published = BALANCED.published.model_copy(
        update={"unconfirmed_records": 4, "dropped_records": 1}
    )

    faults = replace(BALANCED, published=published).faults()

    assert faults[0].startswith("4 records were not confirmed")
    assert faults[1] == "1 records were never published"


def test_an_empty_run_does_not_balance() -> None:
    books = replace(
        BALANCED,
        published=Published(),
        stored=Stored({}, repeated=0),
        seen=Seen(),
        dead_in_queue=0,
    )

    assert books.faults() == ["nothing was published"]
