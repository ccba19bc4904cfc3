"""Those who ask models, and a device that has a model of its own."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from typing_extensions import override

from producers.simulator.sensors import Emission, Source, utc_time

EXCHANGE = "ai"

#: The sample model of config/triton, and how many temperatures it takes.
MODEL = "temperature-anomaly"
WINDOW_READINGS = 24
_WINDOW_STEP_SECONDS = 240.0
_NOISE_CELSIUS = 0.06

#: What the camera at the door runs itself; it publishes results, and asks nobody.
CAMERA_MODEL = "doorbell-person"


class Asker(Source):
    """Asks how unusual the last temperatures of a room are.

    Args:
        room: which room.
        celsius: its temperature at a moment, epoch seconds.
        rng: its own source of chance.
    """

    def __init__(
        self, room: str, celsius: Callable[[float], float], rng: random.Random
    ) -> None:
        super().__init__()
        self._room = room
        self._celsius = celsius
        self._rng = rng

    @override
    def _say(self, now_ms: int) -> Emission | None:
        last = now_ms / 1000
        past = range(WINDOW_READINGS - 1, -1, -1)
        window = [
            round(
                self._celsius(last - steps * _WINDOW_STEP_SECONDS)
                + self._rng.gauss(0.0, _NOISE_CELSIUS),
                2,
            )
            for steps in past
        ]
        record = request_record(
            f"{self._room}-window", self._room, window, now_ms, utc_time(now_ms)
        )
        return Emission(EXCHANGE, f"ai.model.{MODEL}", last, [record])


class Camera(Source):
    """Says whether it sees somebody, by its own model."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng

    @override
    def _say(self, now_ms: int) -> Emission | None:
        record = result_record(self._rng.random(), now_ms, utc_time(now_ms))
        return Emission(EXCHANGE, f"ai.result.{CAMERA_MODEL}", now_ms / 1000, [record])


def request_record(
    sensor_id: str, room: str, window: Sequence[float], number: int, timestamp: object
) -> dict[str, object]:
    """A request to the sample model.

    Args:
        sensor_id: of the thermometer.
        room: where it is.
        window: °C, the latest last.
        number: makes the request's id.
        timestamp: of the latest.
    """
    return {
        "request_id": f"{sensor_id}-{number}",
        "model": MODEL,
        "inputs": [
            {
                "name": "window",
                "shape": [1, WINDOW_READINGS],
                "datatype": "FP32",
                "data": list(window),
            }
        ],
        "sensor_id": sensor_id,
        "location": room,
        "timestamp": timestamp,
    }


def result_record(
    probability: float, number: int, timestamp: object
) -> dict[str, object]:
    """A result of the camera's model."""
    return {
        "request_id": f"frame-{number}",
        "model": CAMERA_MODEL,
        "version": "3",
        "outputs": [
            {
                "name": "person",
                "shape": [1, 1],
                "datatype": "FP32",
                "data": [round(probability, 4)],
            }
        ],
        "latency_ms": round(20.0 + 15.0 * probability, 3),
        "timestamp": timestamp,
    }
