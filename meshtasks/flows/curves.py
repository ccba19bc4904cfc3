"""Reads a sensor's curve from the time-series store.

A VictoriaMetrics is asked by its export (``/api/v1/export``), which leaves nothing out,
or for long spans in Prometheus' language (``/api/v1/query_range``); every InfluxDB by
InfluxQL (``/query``), in which versions 1 to 3 agree; version 2 takes the bucket's name
as database (https://docs.influxdata.com/influxdb/v2/api-guide/influxdb-1x/).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any, NamedTuple
from urllib.parse import urlencode

import urllib3
from urllib3.exceptions import HTTPError

from meshtasks.config.environment import Environment
from meshtasks.errors import SinkUnavailable
from meshtasks.http import Answer, pool_manager, request
from meshtasks.records.units import Quantity

_TIMEOUT_SECONDS = 10.0
_OK = 200
_NOT_FOUND = frozenset({400, 404, 405})
#: Of a longer span the store makes means; of a shorter one it gives every point.
_EXPORT_SECONDS = 90_000.0
#: A curve has so many points at most.
_POINTS = 700


class Point(NamedTuple):
    """The mean of the readings around a moment, epoch seconds."""

    at: float
    value: float


def read_curve(
    env: Environment,
    quantity: Quantity,
    sensor_id: str,
    begins_at: float,
    ends_at: float,
) -> list[Point]:
    """The readings of a sensor in a span of time, in order.

    Args:
        begins_at: epoch seconds.
        ends_at: likewise.

    Raises:
        SinkUnavailable: the store does not answer, or may not be read.
    """
    step = max(1.0, (ends_at - begins_at) / _POINTS)
    with closing(_Store(env)) as store:
        found = store.victoria(quantity, sensor_id, begins_at, ends_at, step)
        if found is None:
            found = store.influx(quantity, sensor_id, begins_at, ends_at, step)
    return list(_means(sorted(found), begins_at, step))


class _Store:
    def __init__(self, env: Environment) -> None:
        self._env = env
        self._url = env.influx_url.rstrip("/")
        token = env.influx_token.get_secret_value()
        self._headers = {"Authorization": f"Token {token}"} if token else {}
        self._pool: urllib3.PoolManager = pool_manager(maxsize=1)

    def close(self) -> None:
        self._pool.clear()

    def victoria(
        self,
        quantity: Quantity,
        sensor_id: str,
        begins: float,
        ends: float,
        step: float,
    ) -> list[Point] | None:
        """The points of a VictoriaMetrics; None if it is none."""
        # of JSON's escapes it knows all but the pairs that stand for an emoji
        name, sensor = (
            json.dumps(each, ensure_ascii=False)
            for each in (f"{quantity.kind}_{quantity.field}", sensor_id)
        )
        match = f"{{__name__={name},sensor_id={sensor}}}"
        if ends - begins > _EXPORT_SECONDS:
            query = {
                "query": f"avg_over_time({match}[{step:.0f}s])",
                "start": f"{begins:.3f}",
                "end": f"{ends:.3f}",
                "step": f"{step:.0f}s",
            }
            answer = self._get("/api/v1/query_range", query)
            return None if answer is None else list(_of_range(answer))
        query = {"match[]": match, "start": f"{begins:.3f}", "end": f"{ends:.3f}"}
        answer = self._get("/api/v1/export", query)
        return None if answer is None else list(_exported(answer))

    def influx(
        self,
        quantity: Quantity,
        sensor_id: str,
        begins: float,
        ends: float,
        step: float,
    ) -> list[Point]:
        """The points of an InfluxDB."""
        sensor = sensor_id.replace("\\", "\\\\").replace("'", "\\'")
        field, kind = (f'"{each}"' for each in (quantity.field, quantity.kind))
        query = (
            f"SELECT mean({field}) FROM {kind} WHERE \"sensor_id\" = '{sensor}' "  # noqa: S608 - quoted
            f"AND time >= {begins * 1000:.0f}ms AND time <= {ends * 1000:.0f}ms "
            f"GROUP BY time({max(1, round(step))}s) fill(none)"
        )
        parameters = {"db": self._env.influx_bucket, "epoch": "ms", "q": query}
        answer = self._get("/query", parameters)
        if answer is None:
            raise self._unreadable("has no interface that is known for reading")
        return list(_of_influx(answer))

    def _get(self, path: str, query: dict[str, str]) -> str | None:
        """The answer; None if the store has no such address."""
        url = f"{self._url}{path}?{urlencode(query)}"
        try:
            answer: Answer = request(
                self._pool,
                "GET",
                url,
                timeout_seconds=_TIMEOUT_SECONDS,
                headers=self._headers,
            )
        except HTTPError as error:
            fault = self._unreadable(f"cannot be used: {error}")
            raise fault from error
        if answer.status in _NOT_FOUND or answer.is_page:
            return None
        if answer.status != _OK:
            what = f"answered {answer.status} to a question"
            raise self._unreadable(what)
        return answer.text

    def _unreadable(self, what: str) -> SinkUnavailable:
        return SinkUnavailable("timeseries", f"the time-series store {what}")


def _exported(text: str) -> Iterator[Point]:
    for line in text.splitlines():
        try:
            series = json.loads(line)
        except ValueError:
            continue  # the answer was cut at its limit
        for at, value in zip(series["timestamps"], series["values"], strict=True):
            if value is not None:
                yield Point(at / 1000, value)


def _of_range(text: str) -> Iterator[Point]:
    for series in _document(text).get("data", {}).get("result", ()):
        for at, value in series["values"]:
            yield Point(float(at), float(value))


def _of_influx(text: str) -> Iterator[Point]:
    for result in _document(text).get("results", ()):
        for series in result.get("series", ()):
            for row in series.get("values", ()):
                match row:  # a VictoriaMetrics has rows of names
                    case [int() | float() as at, int() | float() as value]:
                        yield Point(at / 1000, float(value))
                    case _:
                        pass


def _document(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _means(points: Iterable[Point], begins: float, step: float) -> Iterator[Point]:
    """At most one point for each step."""
    together: list[Point] = []
    number = -1
    for point in points:
        at = int((point.at - begins) // step)
        if together and at != number:
            yield _mean(together)
            together = []
        number = at
        together.append(point)
    if together:
        yield _mean(together)


def _mean(points: list[Point]) -> Point:
    return Point(
        sum(point.at for point in points) / len(points),
        sum(point.value for point in points) / len(points),
    )
