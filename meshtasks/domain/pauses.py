"""When to leave somebody alone who is too slow or asks for it; pure."""

from __future__ import annotations

from typing import NamedTuple

#: The longest pause, unless somebody asks for a longer one.
LONGEST_SECONDS = 60.0
_SHORTEST_SECONDS = 1.0
_DOUBLINGS = 6  # more would change nothing


class Pause(NamedTuple):
    """Somebody is left alone.

    Attributes:
        until: by the caller's clock.
        times: how often in a row.
        reason: why.
    """

    until: float
    times: int
    reason: str


class Pauses:
    """Who is left alone, and until when."""

    def __init__(self) -> None:
        self._pauses: dict[str, Pause] = {}

    def of(self, name: str, now: float) -> Pause | None:
        """The pause of somebody who must not be called now."""
        pause = self._pauses.get(name)
        return pause if pause and now < pause.until else None

    def begin(
        self,
        name: str,
        reason: str,
        now: float,
        *,
        lasted_seconds: float,
        asked_seconds: float | None,
    ) -> float:
        """Leave somebody alone: as long as the call has just kept us, a second at
        least, doubled with every time in a row; and not shorter than they ask.

        Args:
            name: who.
            reason: why.
            now: seconds that only go forward.
            lasted_seconds: how long the call took.
            asked_seconds: the wait they asked for, if they did.

        Returns:
            Length of the pause, seconds.
        """
        before = self._pauses.get(name)
        times = before.times if before else 0
        ours = max(_SHORTEST_SECONDS, lasted_seconds) * 2.0**times
        seconds = max(min(ours, LONGEST_SECONDS), asked_seconds or 0.0)
        self._pauses[name] = Pause(now + seconds, min(times + 1, _DOUBLINGS), reason)
        return seconds

    def end(self, name: str) -> None:
        """They are well again."""
        self._pauses.pop(name, None)
