"""Wait for a condition instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Nobody gives up sooner: what takes a second on an idle machine may take a minute on
#: one that is busy with something else. It ends a wait for what will never come.
PATIENCE_SECONDS = 300.0
#: Between two looks at what takes long to look at.
_LONGEST_PAUSE_SECONDS = 0.5


def wait_until(
    predicate: Callable[[], object], within_seconds: float, what: str
) -> None:
    """Return as soon as ``predicate`` is true.

    Raises:
        AssertionError: it was still false after ``within_seconds``, and after
            ``PATIENCE_SECONDS``; the text says ``what`` was waited for.
    """
    within_seconds = max(within_seconds, PATIENCE_SECONDS)
    deadline = time.monotonic() + within_seconds
    asked_at = time.monotonic()
    while not predicate():
        now = time.monotonic()
        if now > deadline:
            message = f"gave up after {within_seconds:g} s waiting for {what}"
            raise AssertionError(message)
        # Whoever asks servers all the time keeps them from what is waited for.
        time.sleep(min(max(0.02, 8 * (now - asked_at)), _LONGEST_PAUSE_SECONDS))
        asked_at = time.monotonic()
