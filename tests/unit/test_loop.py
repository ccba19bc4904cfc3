"""Callbacks in the event loop, whichever thread and moment they come from."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from kombu.asynchronous import Hub

from meshtasks.worker.celery_internals import EventLoop


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.close()


@pytest.fixture
def waits(hub: Hub) -> list[bool]:
    """Of each turn, whether it would have had to wait for a socket."""
    poll, waits = hub.poller.poll, []

    def look(_timeout: float) -> Any:
        events = poll(0)
        waits.append(not events)
        return events

    hub.poller.poll = look
    return waits


@pytest.fixture
def loop(hub: Hub, waits: list[bool]) -> Iterator[EventLoop]:
    assert waits == []  # before the hub makes its loop
    with closing(EventLoop(hub)) as loop:
        loop.attach()
        yield loop


def turn(hub: Hub, waits: list[bool]) -> bool:
    """Turn the loop until it looks at its sockets; whether it had to wait."""
    seen = len(waits)
    while len(waits) == seen:
        hub.run_once()
    return waits[-1]


def test_what_a_callback_adds_is_run_without_waiting(
    hub: Hub, waits: list[bool], loop: EventLoop
) -> None:
    ran: list[int] = []
    hub.call_soon(loop.soon, ran.append, 1)

    assert not turn(hub, waits)
    turn(hub, waits)
    assert ran == [1]


def test_what_another_thread_adds_is_run_without_waiting(
    hub: Hub, waits: list[bool], loop: EventLoop
) -> None:
    ran: list[int] = []
    turn(hub, waits)
    thread = threading.Thread(target=loop.soon, args=(ran.append, 1))
    thread.start()
    thread.join()

    assert not turn(hub, waits)
    turn(hub, waits)
    assert ran == [1]


def test_nothing_to_do_lets_the_loop_wait(
    hub: Hub, waits: list[bool], loop: EventLoop
) -> None:
    loop.soon(lambda: None)
    turn(hub, waits)
    turn(hub, waits)

    assert turn(hub, waits)


def test_a_flood_of_callbacks_is_run_as_a_few(
    hub: Hub, waits: list[bool], loop: EventLoop
) -> None:
    ran: list[int] = []
    for number in range(5_000):
        loop.soon(ran.append, number)

    turn(hub, waits)

    assert sorted(ran) == list(range(5_000))
