"""Motion sensors: they say when somebody comes, and when nobody is there any more."""

from __future__ import annotations

from typing_extensions import override

from producers.simulator.sources import Emission, Source, utc_time

EXCHANGE = "sensors"


class MotionSensor(Source):
    """Sees somebody and nobody in turn.

    Args:
        room: where it is.
        complete: it gives its id, its place and the time; else the routing key and
            the message say all that.
    """

    def __init__(self, room: str, *, complete: bool = True) -> None:
        super().__init__()
        self._room = room
        self._complete = complete
        self._motion = False

    @override
    def _say(self, now_ms: int) -> Emission | None:
        self._motion = not self._motion
        record: dict[str, object] = {"motion": self._motion}
        if self._complete:
            sensor_id, moment = f"{self._room}-pir", utc_time(now_ms)
            record = motion_record(self._room, sensor_id, moment) | record
        key = motion_key(self._room)
        return Emission(EXCHANGE, key, now_ms / 1000, [record])


def motion_key(room: str) -> str:
    """The routing key of a room's motion sensors."""
    return f"sensors.motion.{room}"


def motion_record(room: str, sensor_id: str, timestamp: object) -> dict[str, object]:
    """Somebody is there."""
    return {
        "sensor_id": sensor_id,
        "motion": True,
        "timestamp": timestamp,
        "location": room,
    }
