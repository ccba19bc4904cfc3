"""Which queues are consumed after the broker failed over a message, and how much."""

from __future__ import annotations

from meshtasks.worker.caution import Caution

QUEUES = ["a", "b", "c"]


def windows(caution: Caution) -> list[int | None]:
    return [caution.window(queue) for queue in QUEUES]


def test_as_long_as_the_broker_is_well_every_queue_is_consumed() -> None:
    assert windows(Caution()) == [None, None, None]


def test_the_first_queue_goes_alone_and_with_more_messages_step_by_step() -> None:
    caution = Caution()
    caution.suspect(QUEUES)
    seen = [windows(caution)]
    for _ in range(3):
        caution.step()
        seen.append(windows(caution))

    assert seen == [[1, 0, 0], [32, 0, 0], [1_024, 0, 0], [0, 1, 0]]


def test_the_queue_that_fails_alone_is_the_one_and_the_others_wait_for_it_only() -> (
    None
):
    caution = Caution()
    caution.suspect(QUEUES)
    for _ in range(4):
        caution.step()
    assert windows(caution) == [0, 32, 0]

    caution.suspect(QUEUES)
    assert windows(caution) == [0, 1, 0]

    for _ in range(3):
        caution.step()
    assert windows(caution) == [None, None, None]


def test_a_new_connection_begins_with_one_message_again() -> None:
    caution = Caution()
    caution.suspect(QUEUES)
    caution.step()

    caution.restart()

    assert windows(caution) == [1, 0, 0]
