"""When a device measured: by its own clock where that can be believed."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from meshtasks.domain.timestamps import InvalidTimestamp, epoch_seconds
from producers.sensornet.report import LocalTime


def moment(stamp: object, received_at: float, zone: ZoneInfo | None) -> float | None:
    """The moment a device's timestamp stands for, epoch seconds.

    Args:
        stamp: as of :class:`~producers.sensornet.report.Report`.
        received_at: epoch seconds.
        zone: of local times; without one they say nothing.

    Returns:
        None when there is no timestamp, or none to believe: a clock that was never
        set counts from 1970, and a reading is worth more than its device's clock.
    """
    if isinstance(stamp, LocalTime):
        return _local(stamp.text, received_at, zone) if zone else None
    if stamp is None:
        return None
    try:
        return epoch_seconds(stamp, received_at)
    except InvalidTimestamp:
        return None


def _local(text: str, received_at: float, zone: ZoneInfo) -> float | None:
    """A local time; of the hour that autumn repeats, the one nearer to the receipt."""
    try:
        local = datetime.fromisoformat(text)
        if local.tzinfo is None:
            local = local.replace(tzinfo=zone)
        candidates = [local.replace(fold=fold).astimezone(UTC) for fold in (0, 1)]
        seconds = min(
            (candidate.timestamp() for candidate in candidates),
            key=lambda each: abs(each - received_at),
        )
        return epoch_seconds(seconds, received_at)
    except (ValueError, OverflowError, InvalidTimestamp):
        return None
