"""When a device measured: by its own clock where that can be believed."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from meshtasks.records.timestamps import InvalidTimestamp, epoch_seconds
from producers.sensornet.meaning import DeviceTime

#: Nothing is measured after it was received; clocks differ by as much.
AHEAD_LIMIT_SECONDS = 300.0
#: What is older was not measured then: the clock is wrong, or the value repeats an
#: old time.
BEHIND_LIMIT_SECONDS = 30 * 86_400.0


class NotBelieved(ValueError):
    """A device's clock is wrong, or it has not said when it measured."""


def moment(stamp: object, received_at: float, zone: ZoneInfo | None) -> float | None:
    """The moment a device's timestamp stands for, epoch seconds.

    Args:
        stamp: as of :class:`~producers.sensornet.meaning.Payload`.
        received_at: epoch seconds.
        zone: of times that name none; without one those say nothing.

    Returns:
        None when there is no timestamp.

    Raises:
        NotBelieved: there is one, but no device has measured then; a clock that was
            never set counts from 1970. A reading is worth more than its device's
            clock.
    """
    if stamp is None:
        return None
    seconds: float | None
    try:
        if isinstance(stamp, DeviceTime):
            seconds = _local(stamp.text, received_at, zone)
        else:
            seconds = epoch_seconds(stamp, received_at)
    except (InvalidTimestamp, ValueError, OverflowError) as error:
        raise NotBelieved from error
    if seconds is None:
        return None
    if -BEHIND_LIMIT_SECONDS <= seconds - received_at <= AHEAD_LIMIT_SECONDS:
        return seconds
    raise NotBelieved


def _local(text: str, received_at: float, zone: ZoneInfo | None) -> float | None:
    """A time that perhaps names no zone; of the hour that autumn repeats, the one
    nearer to the receipt. None without any zone.

    Raises:
        ValueError, OverflowError: it is none.
    """
    local = datetime.fromisoformat(text)
    if local.tzinfo is None:
        if zone is None:
            return None
        local = local.replace(tzinfo=zone)
    candidates = [local.replace(fold=fold).astimezone(UTC) for fold in (0, 1)]
    return min(
        (candidate.timestamp() for candidate in candidates),
        key=lambda each: abs(each - received_at),
    )
