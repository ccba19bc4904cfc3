"""The dead letters that wait, grouped by cause, with a few of each."""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from meshtasks.amqp.dead_letters import (
    DeadLetter,
    Group,
    GroupKey,
    Groups,
    Selection,
    dead_letter_of,
)
from meshtasks.amqp.delivery import Delivery
from meshtasks.amqp.peek import peek
from meshtasks.amqp.replay import Replayed, ReplayPlan
from meshtasks.amqp.topology import Topology

#: So many dead letters of a group are kept, with their bodies up to so many bytes.
_EXAMPLES, _LARGEST_EXAMPLE_BYTES = 25, 64 * 1024


class WaitingLetter(NamedTuple):
    """A dead letter, and the message."""

    letter: DeadLetter
    delivery: Delivery


class LettersOfCause(NamedTuple):
    """Dead letters of one cause.

    Attributes:
        key: the cause.
        group: how many, since when.
        examples: the first of them.
    """

    key: GroupKey
    group: Group
    examples: tuple[WaitingLetter, ...]


class WaitingLetters(NamedTuple):
    """The dead-letter queue at one moment.

    Attributes:
        total: how many wait.
        causes: largest first.
        taken_at: epoch seconds.
    """

    total: int
    causes: tuple[LettersOfCause, ...]
    taken_at: float


def waiting_letters(url: str, queue: str) -> WaitingLetters:
    """Look at all dead letters; they stay where they are.

    Args:
        url: AMQP URL.
        queue: the dead-letter queue.

    Raises:
        ConfigError: the broker refuses the account.
        Transient: it cannot be reached, or somebody else is looking.
    """
    groups = Groups()
    examples: dict[GroupKey, list[WaitingLetter]] = {}
    with peek(url, queue, stopping=threading.Event()) as held:
        for delivery in held:
            letter = dead_letter_of(delivery)
            groups.add(letter)
            kept = examples.setdefault(GroupKey.of(letter), [])
            is_small = len(delivery.body) <= _LARGEST_EXAMPLE_BYTES
            if len(kept) < _EXAMPLES and is_small:
                kept.append(WaitingLetter(letter, delivery))
    causes = tuple(
        LettersOfCause(key, group, tuple(examples[key]))
        for group in groups.largest_first()
        for key in (GroupKey.of(group.example),)
    )
    return WaitingLetters(held.seen, causes, time.time())


def would_replay(
    url: str, queue: str, selection: Selection, topology: Topology
) -> Replayed:
    """What a replay would do now.

    Raises:
        ConfigError: see :func:`waiting_letters`.
        Transient: likewise.
    """
    plan = ReplayPlan(selection, topology)
    with peek(url, queue, stopping=threading.Event()) as held:
        for delivery in held:
            plan.add(dead_letter_of(delivery))
    return plan.result(url)
