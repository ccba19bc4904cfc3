"""Queries to the time-series store: its flags, its retention, the curve of a sensor.

VictoriaMetrics responds 204 to points that it drops because they are older than its
retention; by default that is a month. By default it also keeps a point twice if it is
written twice. Its flags are at ``/flags``, its counters at ``/metrics``. InfluxDB 2
rejects points that are too old; a token that may read the bucket gets its retention
from ``GET /api/v2/buckets``, ``retentionRules``
(https://docs.influxdata.com/influxdb/v2/api/).

The curve comes from the export of VictoriaMetrics (``/api/v1/export``), which has all
points, or for long spans from a query in PromQL (``/api/v1/query_range``). InfluxDB is
queried in InfluxQL (``/query``), which versions 1 to 3 support; for version 2 the name
of the bucket is the database
(https://docs.influxdata.com/influxdb/v2/api-guide/influxdb-1x/).
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

from urllib3 import PoolManager
from urllib3.exceptions import HTTPError

from meshtasks.config.durations import span_text
from meshtasks.config.environment import Environment
from meshtasks.errors import SinkUnavailable
from meshtasks.http import Answer, pool_manager, request
from meshtasks.records.units import Quantity
from meshtasks.text import json_in

_OK = 200
_NOT_FOUND = frozenset({400, 404, 405})
#: Timeouts of requests for flags and retention, and for a curve.
_LOOK_SECONDS, _CURVE_SECONDS = 5.0, 10.0
#: Longest span of which VictoriaMetrics sends every point; for longer spans it sends
#: means.
_EXPORT_SECONDS = 90_000.0
#: Most points of a curve.
_POINTS = 700

_DAY = 86_400.0
_FLAG = re.compile(r'^-(?P<name>[\w.]+)="(?P<value>.*)"$', re.MULTILINE)
_DROPPED_OLD = re.compile(
    r'^vm_rows_ignored_total\{[^}]*reason="small_timestamp"[^}]*\} (\S+)$',
    re.MULTILINE,
)
_DROPPED_LABELS = re.compile(
    r"^vm_metrics_with_dropped_labels_total(?:\{[^}]*\})? (\S+)$", re.MULTILINE
)
_STARTED = re.compile(r"^vm_app_start_timestamp(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
_RETENTION = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>[hdwyM]?)")
_DEFAULT_RETENTION = "1"
_UNITS = {
    "h": 3_600.0,
    "d": _DAY,
    "w": 7 * _DAY,
    "y": 365 * _DAY,
    "M": 31 * _DAY,
    "": 31 * _DAY,
}
#: A shorter retention is probably a mistake.
_SHORT_DAYS = 366
#: More tags than the mesh gives any point.
LABELS = 256


class VictoriaMetricsState(NamedTuple):
    """Flags and counters of a VictoriaMetrics.

    Attributes:
        retention_seconds: older points are dropped.
        flags: values of its flags by name, as text.
        dropped_old: number of values that it dropped since its start because they were
            too old.
        dropped_labels: number of series from which it removed tags.
        started_at: time of its start, epoch seconds; 0 if unknown.
    """

    retention_seconds: float
    flags: dict[str, str]
    dropped_old: int
    dropped_labels: int
    started_at: float = 0.0

    def restart(self, now: float) -> str:
        """A text about points that may be missing, and how to restore them, if it was
        started within the last day; else empty. Why it had stopped is unknown."""
        age = now - self.started_at
        if not 0 <= age < _DAY:
            return ""
        hours = math.ceil(age / 3_600) + 1
        return (
            f"it was started {span_text(age)} ago; if it had been killed, and not "
            "stopped, points that it had acknowledged are missing: meshtasks archive "
            f"replay --from {hours}h (or from when it was killed)"
        )

    def faults(self) -> Iterator[str]:
        """Settings that break guarantees of the mesh, and the flags to set."""
        if self.dropped_old:
            yield (
                f"it has dropped {self.dropped_old:,} values that are older than its "
                "retention, and answered that they were stored: set -retentionPeriod"
            )
        elif self.retention_seconds < _SHORT_DAYS * _DAY:
            days = self.retention_seconds / _DAY
            yield (
                f"it keeps {days:.0f} days and drops what is older, as of a replayed "
                "archive, without an error: set -retentionPeriod=100y, say"
            )
        interval = self.flags.get("dedup.minScrapeInterval", "")
        if not re.search(r"[1-9]", interval):
            yield (
                "a point that is written twice counts twice: set "
                "-dedup.minScrapeInterval=1ms"
            )
        if self.dropped_labels:
            yield (
                f"it has cut off tags of {self.dropped_labels:,} series: set "
                f"-maxLabelsPerTimeseries={LABELS}"
            )
        if not self.flags.get("deleteAuthKey"):
            yield (
                "a page in a browser of this network can have it delete points: set "
                "-deleteAuthKey to some secret"
            )


def victoriametrics_state(url: str) -> VictoriaMetricsState | None:
    """Flags and counters of the store at a base URL; None if it is not VictoriaMetrics,
    or does not show them."""
    shown = _page(url, "/flags")
    counted = _page(url, "/metrics") if shown else ""
    if "vm_rows_ignored_total" not in counted:
        return None
    flags = {found["name"]: found["value"] for found in _FLAG.finditer(shown)}
    # /flags has only the flags that were set
    retention = flags.setdefault("retentionPeriod", _DEFAULT_RETENTION)
    return VictoriaMetricsState(
        retention_seconds(retention),
        flags,
        _count(_DROPPED_OLD, counted),
        _count(_DROPPED_LABELS, counted),
        float(_count(_STARTED, counted)),
    )


def retention_seconds(text: str) -> float:
    """Parse ``-retentionPeriod``, in seconds; infinite if the format is unknown.

    Args:
        text: a number with ``h``, ``d``, ``w``, ``M`` or ``y``; without, months.
    """
    found = _RETENTION.fullmatch(text)
    return float(found["number"]) * _UNITS[found["unit"]] if found else float("inf")


def _count(pattern: re.Pattern[str], page: str) -> int:
    return sum(int(float(value)) for value in pattern.findall(page))


class Retention(NamedTuple):
    """The retention of a store.

    Attributes:
        seconds: older points are not stored.
        fate: what the store does with older points, and how to change it.
    """

    seconds: float
    fate: str

    @property
    def days(self) -> float:
        """The retention in days."""
        return self.seconds / _DAY

    def oldest(self) -> float:
        """Time of the oldest point that is kept, epoch seconds."""
        return time.time() - self.seconds


def retention_of(
    env: Environment, state: VictoriaMetricsState | None
) -> Retention | None:
    """The retention of the store at ``MESH_INFLUX_URL``; None if it is unknown or
    unlimited.

    Args:
        env: URL, token, organisation and bucket.
        state: flags and counters, if the store is VictoriaMetrics.
    """
    if state is not None:
        fate = "which would drop them without an error: set its -retentionPeriod"
        return Retention(state.retention_seconds, fate)
    seconds = _of_bucket(env)
    if not seconds:
        return None
    fate = f"which would refuse them: raise the retention of bucket {env.influx_bucket}"
    return Retention(seconds, fate)


def _of_bucket(env: Environment) -> float:
    """Retention of a bucket of InfluxDB 2, seconds; 0 if unlimited or unknown."""
    query = urlencode({"org": env.influx_org, "name": env.influx_bucket})
    page = _page(env.influx_url, f"/api/v2/buckets?{query}", _authorization(env))
    return min(_expiries(json_in(page), env.influx_bucket), default=0.0)


def _expiries(content: Any, bucket: str) -> list[float]:
    """The retention of a bucket by each of its rules, seconds."""
    buckets = content.get("buckets") if isinstance(content, dict) else None
    return [
        float(seconds)
        for each in (buckets if isinstance(buckets, list) else ())
        if isinstance(each, dict) and each.get("name") == bucket
        for rule in (each.get("retentionRules") or ())
        if isinstance(rule, dict) and rule.get("type", "expire") == "expire"
        if isinstance(seconds := rule.get("everySeconds"), int | float) and seconds > 0
    ]


def _page(url: str, path: str, headers: Mapping[str, str] | None = None) -> str:
    """The page at a path below a base URL; empty if there is none."""
    try:
        with pool_manager(maxsize=1) as pool:
            answer = _answer(pool, url, path, headers, _LOOK_SECONDS)
    except HTTPError:
        return ""
    return answer.text if answer.status == _OK else ""


def _authorization(env: Environment) -> dict[str, str]:
    token = env.influx_token.get_secret_value()
    return {"Authorization": f"Token {token}"} if token else {}


def _answer(
    pool: PoolManager,
    url: str,
    path: str,
    headers: Mapping[str, str] | None,
    timeout_seconds: float,
) -> Answer:
    return request(
        pool,
        "GET",
        url.rstrip("/") + path,
        timeout_seconds=timeout_seconds,
        headers=headers,
    )


class Point(NamedTuple):
    """The mean value of readings, and the mean of their times, epoch seconds."""

    at: float
    value: float


def read_curve(
    env: Environment,
    quantity: Quantity,
    sensor_id: str,
    begins_at: float,
    ends_at: float,
) -> list[Point]:
    """The readings of a sensor in a span, in order of time; at most 700 points, each
    the mean of its readings.

    Args:
        env: URL, token and bucket of the store.
        quantity: kind of the readings.
        sensor_id: the sensor.
        begins_at: begin of the span, epoch seconds.
        ends_at: end of the span, epoch seconds.

    Raises:
        SinkUnavailable: the store is unavailable, or refuses to be read.
    """
    step = max(1.0, (ends_at - begins_at) / _POINTS)
    with pool_manager(maxsize=1) as pool:
        curve = _Curve(pool, env, quantity, sensor_id, begins_at, ends_at, step)
        found = curve.victoria()
        if found is None:
            found = curve.influx()
    return list(_means(sorted(found), begins_at, step))


class _Curve(NamedTuple):
    """A curve to read. ``step`` seconds of readings become one point."""

    pool: PoolManager
    env: Environment
    quantity: Quantity
    sensor_id: str
    begins: float
    ends: float
    step: float

    def victoria(self) -> list[Point] | None:
        """The points, if the store is VictoriaMetrics; else None."""
        # it decodes JSON's escapes, except surrogate pairs
        name, sensor = (
            json.dumps(each, ensure_ascii=False)
            for each in (f"{self.quantity.kind}_{self.quantity.field}", self.sensor_id)
        )
        match = f"{{__name__={name},sensor_id={sensor}}}"
        span = {"start": f"{self.begins:.3f}", "end": f"{self.ends:.3f}"}
        if self.ends - self.begins > _EXPORT_SECONDS:
            step = f"{self.step:.0f}s"
            query = {"query": f"avg_over_time({match}[{step}])", **span, "step": step}
            answer = self._get("/api/v1/query_range", query)
            return None if answer is None else list(_of_range(answer))
        answer = self._get("/api/v1/export", {"match[]": match, **span})
        return None if answer is None else list(_exported(answer))

    def influx(self) -> list[Point]:
        """The points, if the store is InfluxDB.

        Raises:
            SinkUnavailable: the store is of neither kind, or unavailable.
        """
        sensor = self.sensor_id.replace("\\", "\\\\").replace("'", "\\'")
        field, kind = (
            f'"{each}"' for each in (self.quantity.field, self.quantity.kind)
        )
        query = (
            f"SELECT mean({field}) FROM {kind} WHERE \"sensor_id\" = '{sensor}' "  # noqa: S608 - quoted
            f"AND time >= {self.begins * 1000:.0f}ms "
            f"AND time <= {self.ends * 1000:.0f}ms "
            f"GROUP BY time({max(1, round(self.step))}s) fill(none)"
        )
        parameters = {"db": self.env.influx_bucket, "epoch": "ms", "q": query}
        answer = self._get("/query", parameters)
        if answer is None:
            raise _unreadable("has no interface that is known for reading")
        return list(_of_influx(answer))

    def _get(self, path: str, query: dict[str, str]) -> str | None:
        """The response; None if the store does not have the path."""
        url, path = self.env.influx_url, f"{path}?{urlencode(query)}"
        headers = _authorization(self.env)
        try:
            answer = _answer(self.pool, url, path, headers, _CURVE_SECONDS)
        except HTTPError as error:
            fault = _unreadable(f"cannot be used: {error}")
            raise fault from error
        if answer.status in _NOT_FOUND or answer.is_page:
            return None
        if answer.status != _OK:
            what = f"answered {answer.status} to a question"
            raise _unreadable(what)
        return answer.text


def _unreadable(what: str) -> SinkUnavailable:
    return SinkUnavailable("timeseries", f"the time-series store {what}")


def _exported(text: str) -> Iterator[Point]:
    for line in text.splitlines():
        try:
            series = json.loads(line)
        except ValueError:
            continue  # the response was truncated at its limit
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
                match row:  # VictoriaMetrics would give rows of names
                    case [int() | float() as at, int() | float() as value]:
                        yield Point(at / 1000, float(value))
                    case _:
                        pass


def _document(text: str) -> dict[str, Any]:
    document = json_in(text)
    return document if isinstance(document, dict) else {}


def _means(points: Iterable[Point], begins: float, step: float) -> Iterator[Point]:
    """The mean of the points of each step."""
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
    number = len(points)
    at, value = (sum(values) / number for values in zip(*points, strict=True))
    return Point(at, value)
