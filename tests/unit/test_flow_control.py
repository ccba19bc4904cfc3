"""Which queues are consumed after the broker failed over a message, and how much."""

from __future__ import annotations

from meshtasks.worker.flow_control import Probation

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
