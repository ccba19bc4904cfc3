"""A time in which nobody listened to Home Assistant."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple


class Gap(NamedTuple):
    """What happened in it is not known, only what came of it.

    Attributes:
        since: epoch seconds; when something was last heard.
        until: epoch seconds; when the present states were.
    """

    since: float
    until: float

    @property
    def seconds(self) -> float:
        """How long it was."""
        return max(0.0, self.until - self.since)

    def as_json(self) -> dict[str, str]:
        """Beginning and end in RFC 3339, as records carry it."""
        return {"since": rfc3339(self.since), "until": rfc3339(self.until)}


def rfc3339(epoch_seconds: float) -> str:
    """A moment as Home Assistant writes it."""
    return datetime.fromtimestamp(epoch_seconds, UTC).isoformat()
