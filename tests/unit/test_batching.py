"""Batches are bounded by count and bytes; failing messages travel apart."""

from __future__ import annotations

from typing import Any

import pytest

from meshtasks.amqp import headers
from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.queues import BatchLimits
from meshtasks.worker.batching import Buffer, LeadingEdge, ShrinkLevel, shrink_level_of

PLAIN = ShrinkLevel(0, single=False)


def delivery(
    body: bytes = b"{}",
    at: float = 0.0,
    table: dict[str, Any] | None = None,
    *,
    redelivered: bool = False,
) -> Delivery:
    properties = {"application_headers": table or {}}
    return Delivery(1, body, "sensors", "k", properties, redelivered, at)


def test_a_batch_is_full_at_its_count() -> None:
    buffer = Buffer(BatchLimits(count=2), PLAIN)

    assert [buffer.add(delivery()), buffer.add(delivery())] == [False, True]


def test_a_batch_is_full_at_its_bytes() -> None:
    buffer = Buffer(BatchLimits(count=100, bytes=10), PLAIN)

    assert [buffer.add(delivery(b"12345")) for _ in range(2)] == [False, True]


def test_a_taken_batch_leaves_an_empty_buffer() -> None:
    buffer = Buffer(BatchLimits(count=2, bytes=3), PLAIN)
    first = delivery(b"ab")
    buffer.add(first)

    assert buffer.take() == [first]
    assert len(buffer) == 0
    assert buffer.add(delivery(b"cd")) is False


def test_a_batch_is_as_old_as_its_first_message() -> None:
    buffer = Buffer(BatchLimits(), PLAIN)
    buffer.add(delivery(at=5.0))
    buffer.add(delivery(at=6.0))

    assert buffer.opened_at == 5.0


def test_every_failed_attempt_makes_the_batch_ten_times_smaller() -> None:
    assert shrink_level_of(delivery(table={headers.ATTEMPT: 2})) == ShrinkLevel(
        2, single=False
    )
    assert Buffer(BatchLimits(count=500), ShrinkLevel(2, single=False)).count_limit == 5
    assert Buffer(BatchLimits(count=500), ShrinkLevel(5, single=False)).count_limit == 1


def test_a_message_that_may_have_killed_a_process_runs_alone() -> None:
    assert shrink_level_of(delivery(table={headers.SINGLE: 1})).single
    assert shrink_level_of(
        delivery(table={"x-delivery-count": 2}, redelivered=True)
    ).single
    assert Buffer(BatchLimits(), ShrinkLevel(9, single=True)).count_limit == 1


def test_a_first_redelivery_is_batched_like_any_message() -> None:
    again = delivery(table={"x-delivery-count": 1}, redelivered=True)
    assert shrink_level_of(again) == PLAIN


def test_a_delivery_count_of_the_senders_own_counts_for_nothing() -> None:
    assert shrink_level_of(delivery(table={"x-delivery-count": 2})) == PLAIN


@pytest.mark.parametrize("attempt", [10**9, 2**63 - 1, -5, True, 1e300, "9", None])
def test_whatever_the_attempt_a_batch_has_a_size(attempt: object) -> None:
    level = shrink_level_of(delivery(table={headers.ATTEMPT: attempt}))
    assert Buffer(BatchLimits(), level).count_limit >= 1


def test_a_message_that_meets_an_idle_queue_goes_at_once() -> None:
    edge = LeadingEdge(0.2)
    assert edge.wait_seconds(50.0) == 0

    edge.started(50.0)
    edge.ended()
    assert edge.wait_seconds(50.3) == 0


def test_what_comes_within_the_age_limit_after_a_batch_started_goes_together() -> None:
    edge = LeadingEdge(0.2)
    edge.started(50.0)

    assert edge.wait_seconds(50.05) == 0.2
    edge.ended()
    assert edge.wait_seconds(50.15) == 0.2


def test_messages_gather_while_a_long_batch_runs() -> None:
    edge = LeadingEdge(0.2)
    edge.started(50.0)
    edge.started(50.1)
    edge.ended()

    assert edge.wait_seconds(60.0) == 0.2
    edge.ended()
    assert edge.wait_seconds(60.0) == 0


def test_a_queue_whose_batches_become_objects_always_gathers() -> None:
    assert LeadingEdge(30.0, always=True).wait_seconds(50.0) == 30
