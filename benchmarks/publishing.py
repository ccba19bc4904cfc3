"""How fast a producer publishes with confirms, next to a loop that waits for none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import amqp
from kombu import Connection

from benchmarks.contenders import SENSOR_QUEUE
from benchmarks.drain import Say
from benchmarks.figures import Rate
from benchmarks.load import ARRAY_READINGS, Reading, readings, single
from benchmarks.services import Services, Space
from meshtasks.amqp.publisher import Publisher
from meshtasks.producers.base import Producer
from meshtasks.producers.buffer import Batching
from meshtasks.producers.spool import Spool, SpoolLimits

PART = "publishing"
BARE = "bare basic_publish, no confirms"
#: Of the bare loop's rate.
LEAST_RATIO = 0.5

_EXCHANGE, _ROUTING_KEY = "sensors", "sensors.temperature.attic"
_DRAIN_SECONDS = 60.0
_LIMITS = SpoolLimits(1_000_000, 1 << 30)

#: Publishes readings; how long it took, and how many messages that makes.
_Way = Callable[[str, list[Reading]], tuple[float, int]]


def measure(services: Services, count: int, rounds: int, say: Say) -> Iterator[Rate]:
    """Every way to publish the same readings, then every way again."""
    given = list(readings(count))
    for number in range(1, rounds + 1):
        say(f"publishing, round {number} of {rounds}")
        for what, way in _WAYS.items():
            with services.space() as space:
                seconds, messages = way(space.amqp_url, given)
                faults = () if what == BARE else tuple(_faults(space, messages))
            rate = count / seconds
            say(f"  {what}: {rate:,.0f} readings/s")
            if what == BARE:
                yield Rate(PART, what, rate)
            else:
                yield Rate(PART, what, rate, BARE, LEAST_RATIO, faults)


def _bare(url: str, given: list[Reading]) -> tuple[float, int]:
    """The same messages, as py-amqp's user writes them one by one."""
    messages = list(single(given))
    with Connection(url) as connection:
        channel = connection.channel()
        began_at = time.perf_counter()
        for message in messages:
            content = amqp.Message(
                message.body, content_type="application/json", delivery_mode=2
            )
            channel.basic_publish(
                content, exchange=message.exchange, routing_key=message.routing_key
            )
        return time.perf_counter() - began_at, len(messages)


def _publisher(url: str, given: list[Reading]) -> tuple[float, int]:
    messages = list(single(given))
    publisher = Publisher(url)
    publisher.publish([])  # connects
    began_at = time.perf_counter()
    publisher.publish(messages)
    seconds = time.perf_counter() - began_at
    publisher.close()
    return seconds, len(messages)


def _producer(url: str, given: list[Reading]) -> tuple[float, int]:
    return _submit(url, given, array_size=1)


def _producer_of_arrays(url: str, given: list[Reading]) -> tuple[float, int]:
    return _submit(url, given, array_size=ARRAY_READINGS)


def _submit(url: str, given: list[Reading], array_size: int) -> tuple[float, int]:
    with TemporaryDirectory(prefix="meshtasks-bench-") as directory:
        producer = Producer(
            Publisher(url),
            buffer=Spool(Path(directory) / "spool.sqlite3", _LIMITS),
            batching=Batching(array_size=array_size),
        )
        producer.start()
        producer.wait_connected(_DRAIN_SECONDS)
        began_at = time.perf_counter()
        for reading in given:
            producer.submit(_EXCHANGE, _ROUTING_KEY, reading)
        producer.stop(_DRAIN_SECONDS)
        seconds = time.perf_counter() - began_at
    return seconds, producer.counts().messages


def _faults(space: Space, messages: int) -> Iterator[str]:
    if (found := space.ready(SENSOR_QUEUE)) != messages:
        yield f"{found:,} messages in the queue, {messages:,} confirmed"


_WAYS: dict[str, _Way] = {
    BARE: _bare,
    "Publisher, confirmed": _publisher,
    "Producer, a reading a message": _producer,
    f"Producer, {ARRAY_READINGS} readings a message": _producer_of_arrays,
}
