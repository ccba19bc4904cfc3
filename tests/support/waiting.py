"""Wait for a condition instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(
    predicate: Callable[[], object], within_seconds: float, what: str
) -> None:
    """Return as soon as ``predicate`` is true.

    Raises:
        AssertionError: it was still false after ``within_seconds``; the text
            says ``what`` was waited for.
    """
    deadline = time.monotonic() + within_seconds
    while not predicate():
        if time.monotonic() > deadline:
            message = f"gave up after {within_seconds:g} s waiting for {what}"
            raise AssertionError(message)
        time.sleep(0.02)  # the poll interval of this one waiting primitive
