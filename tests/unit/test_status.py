"""What of a mesh's state wants attention."""

from __future__ import annotations

import amqp
import pytest
from celery.app.control import Control

from meshtasks.errors import Transient
from meshtasks.observation.collect import (
    QueueState,
    Snapshot,
    WorkerAnswer,
    ask_workers,
    attention,
    circuit_lines,
)

RESTING = WorkerAnswer(
    "climate@attic",
    ("archive.events",),
    ("sensors.humidity",),
    {"timeseries": "refused"},
)


def snapshot(*queues: QueueState, faults: tuple[str, ...] = ()) -> Snapshot:
    return Snapshot(
        taken_at=0.0,
        queues=queues,
        retry={5: 12},
        dead_letter_queue="dead.letter.queue",
        faults=faults,
    )


def test_messages_that_wait_for_a_consumer_that_is_there_want_none() -> None:
    assert attention(snapshot(QueueState("a", ready=500, consumers=1)), []) == []


def test_messages_that_nobody_consumes_want_it() -> None:
    (line,) = attention(snapshot(QueueState("a", ready=5, consumers=0)), [])

    assert line == "5 messages wait in a and nobody consumes it"


def test_dead_letters_and_retries_wait_for_nobody() -> None:
    assert attention(snapshot(QueueState("dead.letter.queue", 9, 0)), []) == []


def test_what_does_not_answer_wants_it() -> None:
    assert attention(snapshot(faults=("no statistics",)), []) == ["no statistics"]


def test_an_open_circuit_is_shown_with_worker_reason_and_queues() -> None:
    (line,) = circuit_lines([RESTING])

    assert line == (
        "timeseries: circuit open (climate@attic): refused; sensors.humidity paused"
    )


def test_a_circuit_that_is_open_in_several_workers_is_one_line() -> None:
    other = RESTING._replace(name="metrics@attic", resting=("metrics.system",))

    (line,) = circuit_lines([RESTING, other])

    assert line == (
        "timeseries: circuit open (climate@attic, metrics@attic): refused; "
        "metrics.system, sensors.humidity paused"
    )


def test_a_queue_that_is_paused_by_a_circuit_is_not_shown_twice() -> None:
    waiting = snapshot(QueueState("sensors.humidity", ready=5, consumers=0))

    assert len(attention(waiting, [RESTING])) == 1


def test_a_cancelled_queue_of_answers_is_a_fault_of_the_broker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cancelled(*_: object, **__: object) -> None:
        raise amqp.ConsumerCancelled("None3")

    monkeypatch.setattr(Control, "broadcast", cancelled)

    with pytest.raises(Transient, match="the workers cannot be asked"):
        ask_workers("amqp://nobody:unused@127.0.0.1:1/")
