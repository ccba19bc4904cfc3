"""Batches that wait for the pool."""

from __future__ import annotations

from typing import Any

import pytest

from meshtasks.worker.dispatch import WaitingBatches

CLIMATE: Any = "climate"
HOME: Any = "home"


@pytest.fixture
def waiting() -> WaitingBatches:
    """Two batches of one queue, one of another between them."""
    waiting = WaitingBatches()
    deliveries: Any
    for consumer, deliveries in ((CLIMATE, [1]), (HOME, [2]), (CLIMATE, [3])):
        waiting.append(consumer, deliveries)
    return waiting


def taken(waiting: WaitingBatches, *consumers: object) -> list[Any]:
    """The batches of these consumers, in the order in which they are taken."""
    taken: list[Any] = []
    while (batch := waiting.first(lambda consumer: consumer in consumers)) is not None:
        taken += batch.deliveries
    return taken


def test_batches_are_taken_in_their_order(waiting: WaitingBatches) -> None:
    assert taken(waiting, CLIMATE, HOME) == [1, 2, 3]
    assert not waiting


def test_a_consumer_that_may_not_run_holds_up_no_other(waiting: WaitingBatches) -> None:
    assert taken(waiting, HOME) == [2]
    assert waiting.messages_of(CLIMATE) == 2


def test_parts_of_a_batch_go_before_all_others_in_their_order(
    waiting: WaitingBatches,
) -> None:
    parts: Any = [[10], [11], [12]]

    waiting.prepend(HOME, parts)

    assert taken(waiting, CLIMATE, HOME) == [10, 11, 12, 1, 2, 3]


def test_what_is_taken_back_does_not_run(waiting: WaitingBatches) -> None:
    assert list[Any](waiting.take(CLIMATE)) == [1, 3]
    assert taken(waiting, CLIMATE, HOME) == [2]


def test_a_queue_is_asked_once_however_many_of_its_batches_wait(
    waiting: WaitingBatches,
) -> None:
    asked: list[object] = []

    def admits(consumer: object) -> bool:
        asked.append(consumer)
        return False

    assert waiting.first(admits) is None
    assert asked == [CLIMATE, HOME]
