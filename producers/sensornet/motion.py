"""Motion that is said again, as bridges do with every other value they pass on."""

from __future__ import annotations

from typing import NamedTuple

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
