"""What everything in the house that speaks has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import NamedTuple


class Emission(NamedTuple):
    """What a source says at one moment.

    Attributes:
        exchange: where to.
        routing_key: as what.
        timestamp: epoch seconds; of the message, and so of records without one.
        records: the JSON records. Several are one array message.
    """

    exchange: str
    routing_key: str
    timestamp: float
    records: Sequence[object]


class Source(ABC):
    """Something in the house that speaks now and then.

    No two of its records are of the same moment, so each stays a point of its own
    in a store.

    Args:
        interval_ms: it speaks once in so long at most, by the house's clock.
    """

    def __init__(self, interval_ms: int = 1) -> None:
        self._interval_ms = interval_ms
        self._last: int | None = None

    def emit(self, now_ms: int) -> Emission | None:
        """What it says at this moment, epoch milliseconds; None for nothing."""
        moment = now_ms // self._interval_ms
        if moment == self._last:
            return None
        self._last = moment
        return self._say(now_ms)

    @abstractmethod
    def _say(self, now_ms: int) -> Emission | None:
        """What it says at a moment that it has not spoken at."""


def utc_time(ms: int) -> str:
    """Epoch milliseconds in RFC 3339, as UTC."""
    moment = datetime.fromtimestamp(ms // 1000, UTC) + timedelta(milliseconds=ms % 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def local_time(ms: int) -> str:
    """Epoch milliseconds in RFC 3339, an hour ahead of UTC."""
    moment = datetime.fromtimestamp(ms // 1000, timezone(timedelta(hours=1)))
    moment += timedelta(milliseconds=ms % 1000)
    return moment.isoformat(timespec="milliseconds")
