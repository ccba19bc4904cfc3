"""What is published: temperatures of a house, the same for every contender."""

from __future__ import annotations

import json
import math
import random
import time
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import TypedDict

from celery import Celery
from kombu.utils.json import dumps

from meshtasks.amqp.publisher import Outgoing

SENSORS = 50
ARRAY_READINGS = 100
#: Queue of the peers that consume Celery's own messages.
CELERY_QUEUE = "readings"

_LOCATIONS = ("attic", "bathroom", "bedroom", "cellar", "garage", "kitchen", "office")
_STEP_MS = 5
_DAY_SECONDS = 86_400


class Reading(TypedDict):
    """A reading as sensors publish it."""

    sensor_id: str
    value: float
    unit: str
    timestamp: str
    location: str


def readings(count: int) -> Iterator[Reading]:
    """Readings up to now, each with a timestamp (and so a point) of its own.

    A daily curve with noise, a third of the sensors each in °C, °F and K. Only
    the timestamps differ from run to run.
    """
    noise = random.Random(count)  # repeatable
    start_ms = int(time.time() * 1000) - count * _STEP_MS
    for index in range(count):
        sensor = index % SENSORS
        yield reading(sensor, start_ms + index * _STEP_MS, noise.gauss(0.0, 0.2))


def reading(sensor: int, time_ms: int, noise_celsius: float) -> Reading:
    """One reading.

    Args:
        sensor: number of the sensor, 0 to :data:`SENSORS` - 1.
        time_ms: epoch milliseconds.
        noise_celsius: added to the daily curve.
    """
    turn = math.tau * (time_ms / 1000 % _DAY_SECONDS) / _DAY_SECONDS
    celsius = 19 + sensor % 5 - 3 * math.cos(turn) + noise_celsius
    unit = "CFK"[sensor % 3]
    value = {"C": celsius, "F": celsius * 9 / 5 + 32, "K": celsius + 273.15}[unit]
    stamp = datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(
        timespec="milliseconds"
    )
    return {
        "sensor_id": f"temperature-{sensor:02d}",
        "value": round(value, 2),
        "unit": unit,
        "timestamp": stamp,
        "location": _LOCATIONS[sensor % len(_LOCATIONS)],
    }


def single(items: Iterable[Reading]) -> Iterator[Outgoing]:
    """One plain-JSON message per reading."""
    for item in items:
        routing_key = f"sensors.temperature.{item['sensor_id']}"
        yield Outgoing("sensors", routing_key, json.dumps(item).encode())


def arrays(items: Iterable[Reading]) -> Iterator[Outgoing]:
    """One plain-JSON message per hundred readings, as a gateway would send."""
    rest = iter(items)
    while members := list(islice(rest, ARRAY_READINGS)):
        body = json.dumps(members).encode()
        yield Outgoing("sensors", "sensors.temperature.gateway", body)


def metrics(items: Iterable[Reading]) -> Iterator[Outgoing]:
    """One plain-JSON metric per reading."""
    for item in items:
        record = {
            "name": "room",
            "fields": {"celsius": item["value"], "load": 0.5},
            "tags": {"host": item["sensor_id"], "location": item["location"]},
            "timestamp": item["timestamp"],
        }
        yield Outgoing(
            "metrics", "metrics.system.lab.room", json.dumps(record).encode()
        )


def archived(items: Iterable[Reading]) -> Iterator[Outgoing]:
    """One plain-JSON message per reading, for the archive alone."""
    return (message._replace(exchange="archive") for message in single(items))


def celery_calls(items: Iterable[Reading]) -> Iterator[Outgoing]:
    """One Celery message per reading, as ``store.delay(reading)`` sends it."""
    amqp = Celery(set_as_current=False).amqp
    for item in items:
        call = amqp.as_task_v2(str(uuid.uuid4()), "store", args=(item,))
        yield Outgoing(
            "",
            CELERY_QUEUE,
            dumps(call.body).encode(),
            headers=call.headers,
            properties={**call.properties, "content_encoding": "utf-8"},
        )
