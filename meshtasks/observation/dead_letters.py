"""The dead letters that wait, grouped by cause, with a few of each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from meshtasks.amqp.dead_letter_groups import (
    Cause,
    CauseGroups,
    Group,
    Groups,
    Selection,
)
from meshtasks.amqp.dead_letters import DeadLetter, dead_letter_of
from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.peek import HeldMessages, peek
from meshtasks.amqp.replay import Refusal, Replayed, ReplayPlan
from meshtasks.amqp.topology import Topology

#: Bodies are kept up to so many bytes, and so many in all: there may be thousands of
#: causes, and the rest is fetched when somebody asks for it.
_LARGEST_KEPT_BYTES, _MOST_KEPT_BYTES = 16 * 1024, 16 * 1024 * 1024
_STEP = 500

OnProgress = Callable[[HeldMessages], None]


class WaitingDeadLetter(NamedTuple):
    """A dead letter, and the message, unless it was not kept."""

    letter: DeadLetter
    delivery: Delivery | None


class LettersOfCause(NamedTuple):
    """Dead letters of one cause.

    Attributes:
        found: how many, in which queues.
        examples: the first of them.
    """

    found: CauseGroups
    examples: tuple[WaitingDeadLetter, ...]


class WaitingDeadLetters(NamedTuple):
    """The dead-letter queue at one moment.

    Attributes:
        total: how many were looked at.
        groups: by cause and queue, largest first.
        causes: across queues, largest first.
        taken_at: epoch seconds.
    """

    total: int
    groups: tuple[Group, ...]
    causes: tuple[LettersOfCause, ...]
    taken_at: float


def waiting_dead_letters(
    url: str,
    queue: str,
    *,
    examples: int = 0,
    most: int | None = None,
    stopping: threading.Event | None = None,
    on_progress: OnProgress = lambda _: None,
) -> WaitingDeadLetters:
    """Look at the dead letters; they stay where they are.

    Args:
        examples: so many of each cause are kept.
        most: so many are looked at; None for all.
        stopping: ends it, in good order, when it is set.
        on_progress: called now and then.

    Raises:
        ConfigError: the broker refuses the account.
        Transient: it cannot be reached, or somebody else is looking.
    """
    groups = Groups()
    kept: dict[Cause, list[WaitingDeadLetter]] = {}
    kept_bytes = 0
    stopping = stopping or threading.Event()
    with peek(url, queue, stopping=stopping) as held:
        for letter, delivery in _each(held, on_progress):
            groups.add(letter)
            if len(shown := kept.setdefault(Cause.of(letter), [])) < examples:
                size = len(delivery.body)
                fits = size <= _LARGEST_KEPT_BYTES and kept_bytes < _MOST_KEPT_BYTES
                kept_bytes += size * fits
                shown.append(WaitingDeadLetter(letter, delivery if fits else None))
            if held.seen == most:
                stopping.set()
    causes = (
        LettersOfCause(found, tuple(kept[found.cause])) for found in groups.causes()
    )
    largest = tuple(groups.largest_first())
    return WaitingDeadLetters(groups.total, largest, tuple(causes), time.time())


def dead_letter_with_id(
    url: str, queue: str, letter_id: str, on_progress: OnProgress = lambda _: None
) -> WaitingDeadLetter | None:
    """One dead letter with its message; None if it is there no more.

    Raises what :func:`waiting_dead_letters` does.
    """
    stopping = threading.Event()
    found: WaitingDeadLetter | None = None
    with peek(url, queue, stopping=stopping) as held:
        for letter, delivery in _each(held, on_progress):
            if letter.id == letter_id:
                found = WaitingDeadLetter(letter, delivery)
                stopping.set()
    return found


def dead_letters_that(
    url: str,
    queue: str,
    selection: Selection,
    *,
    most: int,
    stopping: threading.Event,
    on_progress: OnProgress = lambda _: None,
) -> list[WaitingDeadLetter]:
    """The first of those that are selected, so many at most; they stay where they are.

    Raises what :func:`waiting_dead_letters` does.
    """
    found: list[WaitingDeadLetter] = []
    with peek(url, queue, stopping=stopping) as held:
        for letter, delivery in _each(held, on_progress):
            if selection.matches(letter):
                found.append(WaitingDeadLetter(letter, delivery))
                if len(found) == most:
                    stopping.set()
    return found


def would_replay(
    url: str,
    queue: str,
    selection: Selection,
    topology: Topology,
    *,
    refusal: Refusal | None = None,
    stopping: threading.Event | None = None,
    on_progress: OnProgress = lambda _: None,
) -> Replayed:
    """What a replay would do now.

    Args:
        refusal: as of :class:`~meshtasks.amqp.replay.Replay`.
        stopping: ends it, in good order, when it is set.
        on_progress: called now and then.

    Raises what :func:`waiting_dead_letters` does.
    """
    plan = ReplayPlan(selection, topology, refusal)
    with peek(url, queue, stopping=stopping or threading.Event()) as held:
        for letter, delivery in _each(held, on_progress):
            plan.add(delivery, letter)
    return plan.result(url)


def _each(
    held: HeldMessages, on_progress: OnProgress
) -> Iterator[tuple[DeadLetter, Delivery]]:
    """Dead letters with their messages, as they are looked at."""
    for delivery in held:
        yield dead_letter_of(delivery), delivery
        if held.seen % _STEP == 0:
            on_progress(held)
