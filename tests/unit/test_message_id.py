"""Ids of published messages."""

from __future__ import annotations

import time
import uuid

from meshtasks.amqp.frames import new_message_id


def test_an_id_is_a_version_7_uuid() -> None:
    parsed = uuid.UUID(new_message_id())

    assert parsed.version == 7
    assert parsed.variant == uuid.RFC_4122


def test_an_id_begins_with_the_millisecond_it_was_made_in() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(new_message_id()).int >> 80
    after = time.time_ns() // 1_000_000

    assert before <= made <= after


def test_ids_differ() -> None:
    assert len({new_message_id() for _ in range(10_000)}) == 10_000
