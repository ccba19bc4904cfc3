"""What a report tells."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime

from meshtasks.records.alert import Severity


@dataclass(frozen=True, slots=True)
class Period:
    """What the report is about.

    Attributes:
        start: its beginning, in the zone that the report speaks in.
        end: when the report was made.
    """

    start: datetime
    end: datetime

    @property
    def seconds(self) -> float:
        """How long it is."""
        return (self.end - self.start).total_seconds()

    def share(self, moment: datetime) -> float:
        """Where in the period a moment is: 0 at its start, 1 at its end; a moment
        outside is at the nearer end."""
        share = (moment - self.start).total_seconds() / self.seconds
        return min(max(share, 0.0), 1.0)


@dataclass(frozen=True, slots=True)
class Curve:
    """One kind of reading in one room; each point stands for a span of time.

    Attributes:
        kind: as ``temperature``.
        unit: of all values.
        times: of the points, ascending.
        means: mean of the readings around each point; None is a gap.
        lows: smallest of them.
        highs: largest of them.
    """

    kind: str
    unit: str
    times: tuple[datetime, ...]
    means: tuple[float | None, ...]
    lows: tuple[float | None, ...]
    highs: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Day:
    """One day of a room and kind.

    Attributes:
        kind: as ``temperature``.
        unit: of the values.
        day: in the report's zone.
        low: smallest reading.
        mean: of all readings.
        high: largest reading.
    """

    kind: str
    unit: str
    day: date
    low: float
    mean: float
    high: float


@dataclass(frozen=True, slots=True)
class Room:
    """A room: a location, or a sensor that gives none.

    Attributes:
        name: as published.
        curves: one for each kind.
        days: the same day by day.
    """

    name: str
    curves: tuple[Curve, ...]
    days: tuple[Day, ...]


@dataclass(frozen=True, slots=True)
class Spell:
    """From the beginning of an alert to its end.

    Attributes:
        end: None while it goes on.
        message: what was said last.
    """

    start: datetime
    end: datetime | None
    message: str


@dataclass(frozen=True, slots=True)
class AlertHistory:
    """All of one alert in the period."""

    title: str
    severity: Severity
    spells: tuple[Spell, ...]

    @property
    def goes_on(self) -> bool:
        """Whether it is not over."""
        return self.spells[-1].end is None


@dataclass(frozen=True, slots=True)
class DeadReason:
    """Dead letters that died of the same.

    Attributes:
        count: how many there are.
        error_type: class of the fault.
        example: the reason as one of them tells it.
        routing_keys: of all of them, sorted.
    """

    count: int
    error_type: str
    example: str
    routing_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """The dead-letter queue.

    Attributes:
        total: messages in it.
        reasons: most frequent first.
        fault: why nothing is known of it; blank if all is well.
    """

    total: int = 0
    reasons: tuple[DeadReason, ...] = ()
    fault: str = ""


@dataclass(frozen=True, slots=True)
class ArchiveShare:
    """What the archive has of one domain."""

    domain: str
    objects: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Archive:
    """The archive and how it grows.

    Attributes:
        bytes_by_day: of the records of each UTC date of the period.
        shares: everything it holds, by domain, largest first.
    """

    bytes_by_day: dict[date, int]
    shares: tuple[ArchiveShare, ...]

    @property
    def size_bytes(self) -> int:
        """Of all its objects."""
        return sum(share.size_bytes for share in self.shares)


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a report tells."""

    period: Period
    readings: int
    rooms: tuple[Room, ...]
    alerts: tuple[AlertHistory, ...]
    archive: Archive
    dead_letters: DeadLetters = field(default_factory=DeadLetters)
