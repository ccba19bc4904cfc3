"""producers.sensornet.records."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

from meshtasks.records.timestamps import InvalidTimestamp, epoch_seconds
from producers.sensornet.payload import DeviceTime

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
        stamp: as of :class:`~producers.sensornet.payload.Payload`.
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


_MOST_SENSORS = 10_000


class _Said(NamedTuple):
    state: bool
    at: float


class Motions:
    """Remembers what each motion sensor said last.

    Zigbee2MQTT repeats ``"occupancy": true`` with every change of the light, and each
    would start a workflow. Sensors that never say false are heard again after a while.

    Args:
        repeat_seconds: how long the same state is a repetition.
    """

    def __init__(self, repeat_seconds: float) -> None:
        self._repeat_seconds = repeat_seconds
        self._last: dict[str, _Said] = {}

    def is_repeated(self, sensor_id: str, at: float, *, state: bool) -> bool:
        """Whether it said the same within the time; else it is remembered.

        Args:
            sensor_id: which sensor.
            at: epoch seconds.
            state: what it says.
        """
        last = self._last.get(sensor_id)
        if last and last.state is state and 0 <= at - last.at < self._repeat_seconds:
            return True
        if len(self._last) >= _MOST_SENSORS:  # of names that somebody makes up
            self._last.clear()
        self._last[sensor_id] = _Said(state, at)
        return False
