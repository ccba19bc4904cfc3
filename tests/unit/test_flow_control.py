"""Which queues are consumed after the broker failed over a message, and how much."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from meshtasks.amqp.connecting import Depth
from meshtasks.flows.circuit import State
from meshtasks.worker.flow_control import (
    Finding,
    FlowControl,
    Probation,
    ProgressWatch,
)

QUEUES = ["a", "b", "c"]


def windows(probation: Probation) -> list[int | None]:
    return [probation.window(queue) for queue in QUEUES]


def test_as_long_as_the_broker_is_well_every_queue_is_consumed() -> None:
    assert windows(Probation()) == [None, None, None]


def test_the_first_queue_goes_alone_and_with_more_messages_step_by_step() -> None:
    probation = Probation()
    probation.suspect(QUEUES)
    seen = [windows(probation)]
    for _ in range(3):
        probation.step()
        seen.append(windows(probation))

    assert seen == [[1, 0, 0], [32, 0, 0], [1_024, 0, 0], [0, 1, 0]]


def test_a_window_opens_when_a_quarter_of_it_was_received() -> None:
    probation = Probation()
    probation.suspect(QUEUES)
    enough = []
    for _ in range(3):
        enough.append((probation.queue, probation.enough))
        probation.step()

    assert enough == [("a", 8), ("a", 8 + 256), ("a", 8 + 256 + 1_024)]


def test_the_queue_that_fails_alone_is_the_one_and_the_others_wait_for_it_only() -> (
    None
):
    probation = Probation()
    probation.suspect(QUEUES)
    for _ in range(4):
        probation.step()
    assert windows(probation) == [0, 32, 0]

    probation.suspect(QUEUES)
    assert windows(probation) == [0, 1, 0]

    for _ in range(3):
        probation.step()
    assert windows(probation) == [None, None, None]


def test_a_new_connection_begins_with_one_message_again() -> None:
    probation = Probation()
    probation.suspect(QUEUES)
    probation.step()

    probation.restart()

    assert windows(probation) == [1, 0, 0]


class Queue:
    """What the control knows of a queue's consumer."""

    is_consuming, is_partition, is_trying, is_open = True, False, True, True
    source = "a"
    sinks = ()
    received = unresolved = waiting = 0

    def __init__(self) -> None:
        self.windows: list[int | None] = []

    def waiting_in_queue(self) -> int:
        return self.waiting

    def consume(self, at_most: int | None) -> None:
        self.windows.append(at_most)


class Clock:
    """Runs what is to be run later when the test says so."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], object]] = []

    def later(self, _seconds: float, callback: Callable[[], object]) -> None:
        self._callbacks.append(callback)

    def pass_by(self) -> None:
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def clock(queue: Queue) -> Clock:
    """Of a worker whose broker has failed over a message of this queue, and that has
    connected again."""
    clock = Clock()
    consumers: Any = {"a": queue}
    breaker: Any = SimpleNamespace(state=lambda _sinks: State.CLOSED)
    control = FlowControl(
        consumers, breaker, clock.later, lambda _consumer: [], *[lambda *_: None] * 2
    )
    control.broker_failed()
    control.restart()
    control.apply()
    return clock


def test_a_slow_machine_does_not_give_a_queue_more_before_it_did_well(
    queue: Queue, clock: Clock
) -> None:
    queue.waiting = 100
    for received in (0, 1, 7, 8, 263, 264):
        queue.received = received
        clock.pass_by()

    assert queue.windows == [1, 1, 1, 1, 32, 32, 1_024]


def test_an_empty_queue_needs_no_messages_to_do_well(
    queue: Queue, clock: Clock
) -> None:
    for _ in range(3):
        clock.pass_by()

    assert queue.windows == [1, 32, 1_024, None]


def test_a_queue_whose_messages_take_long_does_not_hold_up_the_others_for_ever(
    queue: Queue, clock: Clock
) -> None:
    queue.waiting = queue.unresolved = queue.received = 1
    for _ in range(3 * 60):
        clock.pass_by()

    assert queue.windows[-1] is None


class Watched:
    """What the watch knows of a queue's consumer."""

    is_consuming, is_partition, source = True, False, "a"
    received = unresolved = 0

    def __init__(self, ready: int = 0, consumers: int = 1) -> None:
        self.ready, self.consumers = ready, consumers

    def depth(self) -> Depth:
        return Depth(self.ready, self.consumers)


def looks(consumer: Any, watch: ProgressWatch, start: int, until: int) -> list[Finding]:
    """What is found out from one second to another, beside nothing."""
    found = (watch.look(consumer, float(second)) for second in range(start, until))
    return [finding for finding in found if finding != Finding()]


def test_a_consumer_to_which_nothing_is_delivered_is_stalled() -> None:
    consumer = Watched(ready=3)

    (found,) = looks(consumer, ProgressWatch(), 0, 25)

    assert found.stalled == "3 messages wait in a and none is delivered"


def test_a_queue_that_has_no_consumer_any_more_was_declared_anew() -> None:
    consumer, watch = Watched(), ProgressWatch()
    assert looks(consumer, watch, 0, 25) == []

    consumer.consumers = 0

    assert looks(consumer, watch, 25, 45)[0].is_detached


def test_a_queue_that_lost_a_consumer_is_consumed_anew_once() -> None:
    consumer, watch = Watched(consumers=2), ProgressWatch()
    assert looks(consumer, watch, 0, 25) == []

    consumer.consumers = 1

    assert looks(consumer, watch, 25, 100) == [Finding(is_silent=True)]


def test_a_consumer_that_receives_nothing_for_long_is_consumed_anew() -> None:
    consumer, watch = Watched(), ProgressWatch()
    assert looks(consumer, watch, 0, 100) == []
    consumer.received = 1
    assert looks(consumer, watch, 100, 1000) == []

    assert looks(consumer, watch, 1000, 1020) == [Finding(is_silent=True)] * 2


def test_a_consumer_that_holds_messages_is_left_alone() -> None:
    consumer = Watched(ready=3)
    consumer.unresolved = 1

    assert looks(consumer, ProgressWatch(), 0, 300) == []
