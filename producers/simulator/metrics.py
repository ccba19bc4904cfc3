"""Hosts and services as they measure themselves."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping

from typing_extensions import override

from producers.simulator.sensors import Emission, Source, utc_time

EXCHANGE = "metrics"

HOSTS = ("nas", "pi", "mini")
SERVICES = ("home-assistant", "jellyfin", "zigbee2mqtt")

#: So many cores does a host have; each is a record of one array message.
_CORES = 4
_GIBIBYTE = 2**30

#: A value of a metric, or several named ones.
_Measured = Mapping[str, float] | float


def _wave(seconds: float, period_seconds: float, low: float, high: float) -> float:
    share = (1.0 + math.sin(math.tau * seconds / period_seconds)) / 2.0
    return low + (high - low) * share


def _memory(seconds: float, rng: random.Random) -> _Measured:
    used = _wave(seconds, 3_000.0, 35.0, 60.0) + rng.gauss(0.0, 0.5)
    return {"used_percent": round(used, 2), "used_bytes": int(used * _GIBIBYTE / 12)}


def _disk(seconds: float, rng: random.Random) -> _Measured:
    used = _wave(seconds, 86_400.0, 60.0, 70.0) + rng.gauss(0.0, 0.01)
    return {"used_percent": round(used, 3), "free_bytes": int((100 - used) * 10**10)}


def _network(seconds: float, rng: random.Random) -> _Measured:
    received = _wave(seconds, 600.0, 1e4, 2e6) * rng.uniform(0.8, 1.2)
    return {"received_bytes": int(received), "sent_bytes": int(received / 9)}


def _requests(seconds: float, rng: random.Random) -> _Measured:
    count = rng.randint(0, 40)
    return {
        "count": count,
        "errors": rng.choice((0, 0, 0, 1)),
        "p95_ms": round(_wave(seconds, 900.0, 8.0, 60.0) * rng.uniform(0.8, 1.5), 2),
    }


def _backlog(seconds: float, rng: random.Random) -> _Measured:
    return float(max(0, round(_wave(seconds, 300.0, -3.0, 8.0) + rng.gauss(0.0, 1.0))))


#: Name of the metric, and what it is at a moment. Names have no underscore: some
#: stores put one between name and field.
HOST_METRICS: Mapping[str, Callable[[float, random.Random], _Measured]] = {
    "mem": _memory,
    "disk": _disk,
    "net": _network,
}
SERVICE_METRICS: Mapping[str, Callable[[float, random.Random], _Measured]] = {
    "requests": _requests,
    "backlog": _backlog,
}


class Gauge(Source):
    """Sends one metric.

    Args:
        routing_key: as what.
        name: of the metric.
        measure: what it is at a moment, epoch seconds.
        tags: what it is of.
    """

    def __init__(
        self,
        routing_key: str,
        name: str,
        measure: Callable[[float, random.Random], _Measured],
        tags: Mapping[str, str],
        rng: random.Random,
    ) -> None:
        super().__init__()
        self._routing_key = routing_key
        self._name = name
        self._measure = measure
        self._tags = dict(tags)
        self._rng = rng

    @override
    def _say(self, now_ms: int) -> Emission | None:
        measured = self._measure(now_ms / 1000, self._rng)
        record = metric_record(self._name, measured, self._tags, utc_time(now_ms))
        return Emission(EXCHANGE, self._routing_key, now_ms / 1000, [record])


class Processor(Source):
    """Sends the load of every core of a host, in one array message."""

    def __init__(self, host: str, rng: random.Random) -> None:
        super().__init__()
        self._host = host
        self._rng = rng

    @override
    def _say(self, now_ms: int) -> Emission | None:
        records = []
        for core in range(_CORES):
            busy = _wave(now_ms / 1000, 120.0 + 17 * core, 3.0, 70.0)
            user = round(busy * self._rng.uniform(0.6, 0.8), 2)
            measured = {"user_percent": user, "busy_percent": round(busy, 2)}
            tags = {"host": self._host, "core": str(core)}
            records.append(metric_record("cpu", measured, tags, utc_time(now_ms)))
        return Emission(EXCHANGE, host_key(self._host), now_ms / 1000, records)


def host_key(host: str) -> str:
    """The routing key of a host's metrics."""
    return f"metrics.system.{host}"


def service_key(service: str) -> str:
    """The routing key of a service's metrics."""
    return f"metrics.application.{service}"


def metric_record(
    name: str, measured: _Measured, tags: Mapping[str, str], timestamp: object
) -> dict[str, object]:
    """A metric at one moment."""
    what = "fields" if isinstance(measured, Mapping) else "value"
    return {
        "name": name,
        what: measured,
        "tags": dict(tags),
        "timestamp": timestamp,
    }
