"""What the time-series store is asked: how it is run, what it keeps, a sensor's curve.

VictoriaMetrics answers 204 to points that it does not keep: those older than its
retention, a month unless a flag says otherwise; and unless another flag says so, it
keeps a point that is written twice twice. Both can be read: its flags at ``/flags``,
its counters at ``/metrics``. InfluxDB 2 tells the retention of a bucket to a token that
may read it: ``GET /api/v2/buckets``, ``retentionRules``
(https://docs.influxdata.com/influxdb/v2/api/), and refuses what is older.

For a curve a VictoriaMetrics is asked by its export (``/api/v1/export``), which leaves
nothing out, or for long spans in Prometheus' language (``/api/v1/query_range``); every
InfluxDB by InfluxQL (``/query``), in which versions 1 to 3 agree; version 2 takes the
bucket's name as database
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

from urllib3.exceptions import HTTPError

from meshtasks.config.durations import span_text
from meshtasks.config.environment import Environment
from meshtasks.errors import SinkUnavailable
from meshtasks.http import Answer, pool_manager, request
from meshtasks.records.units import Quantity
from meshtasks.text import json_in

_OK = 200
_NOT_FOUND = frozenset({400, 404, 405})
#: A store that is looked at, and one that reads a curve, may take so long.
_LOOK_SECONDS, _CURVE_SECONDS = 5.0, 10.0
#: Of a longer span the store makes means; of a shorter one it gives every point.
_EXPORT_SECONDS = 90_000.0
#: A curve has so many points at most.
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
#: A store that keeps less than this is probably misconfigured.
_SHORT_DAYS = 366
#: The most tags that the mesh gives a point, and some more.
LABELS = 256


class VictoriaMetricsState(NamedTuple):
    """How a VictoriaMetrics is run.

    Attributes:
        retention_seconds: older points are not kept.
        flags: its flags, as text, by name.
        dropped_old: values it has dropped since its start, since they were too old.
        dropped_labels: series whose superfluous tags it has cut off.
        started_at: epoch seconds; 0 if it does not say.
    """

    retention_seconds: float
    flags: dict[str, str]
    dropped_old: int
    dropped_labels: int
    started_at: float = 0.0

    def restart(self, now: float) -> str:
        """What may be missing, and how it comes back, if it was started within the last
        day; else empty. It does not say how it had ended."""
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
        """What keeps promises of the mesh from being kept, and the flag to set."""
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
    """How the time-series store at this base URL is run; None if it is no
    VictoriaMetrics, or does not show it."""
    shown = _page(url, "/flags")
    counted = _page(url, "/metrics") if shown else ""
    if "vm_rows_ignored_total" not in counted:
        return None
    flags = {found["name"]: found["value"] for found in _FLAG.finditer(shown)}
    # only flags that were given are shown
    retention = flags.setdefault("retentionPeriod", _DEFAULT_RETENTION)
    return VictoriaMetricsState(
        retention_seconds(retention),
        flags,
        _count(_DROPPED_OLD, counted),
        _count(_DROPPED_LABELS, counted),
        float(_count(_STARTED, counted)),
    )


def retention_seconds(text: str) -> float:
    """A ``-retentionPeriod`` in seconds; infinite if it is none that we know.

    Args:
        text: a number with ``h``, ``d``, ``w``, ``M`` or ``y``, or of months.
    """
    found = _RETENTION.fullmatch(text)
    return float(found["number"]) * _UNITS[found["unit"]] if found else float("inf")


def _count(pattern: re.Pattern[str], page: str) -> int:
    return sum(int(float(value)) for value in pattern.findall(page))


class Retention(NamedTuple):
    """What a store keeps.

    Attributes:
        seconds: older points are not kept.
        fate: what becomes of older points, and what to do about it.
    """

    seconds: float
    fate: str

    @property
    def days(self) -> float:
        """The same in days."""
        return self.seconds / _DAY

    def oldest(self) -> float:
        """Epoch seconds; what is older is not kept."""
        return time.time() - self.seconds


def retention_of(
    env: Environment, state: VictoriaMetricsState | None
) -> Retention | None:
    """What the store of ``MESH_INFLUX_URL`` keeps; None if it does not say, or keeps
    everything.

    Args:
        env: where it is.
        state: how it is run, if it is a VictoriaMetrics.
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
    """Seconds that the bucket of an InfluxDB 2 keeps; 0 for all, or not known."""
    query = urlencode({"org": env.influx_org, "name": env.influx_bucket})
    page = _page(env.influx_url, f"/api/v2/buckets?{query}", _authorization(env))
    return min(_expiries(json_in(page), env.influx_bucket), default=0.0)


def _expiries(content: Any, bucket: str) -> list[float]:
    """After how many seconds the points of a bucket expire, by each of its rules."""
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
    """A page below a base URL; empty if there is none."""
    try:
        answer = _answer(url, path, headers, _LOOK_SECONDS)
    except HTTPError:
        return ""
    return answer.text if answer.status == _OK else ""


def _authorization(env: Environment) -> dict[str, str]:
    token = env.influx_token.get_secret_value()
    return {"Authorization": f"Token {token}"} if token else {}


def _answer(
    url: str, path: str, headers: Mapping[str, str] | None, timeout_seconds: float
) -> Answer:
    with pool_manager(maxsize=1) as pool:
        return request(
            pool,
            "GET",
            url.rstrip("/") + path,
            timeout_seconds=timeout_seconds,
            headers=headers,
        )


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
    curve = _Curve(env, quantity, sensor_id, begins_at, ends_at, step)
    found = curve.victoria()
    if found is None:
        found = curve.influx()
    return list(_means(sorted(found), begins_at, step))


class _Curve(NamedTuple):
    """A curve to read; ``step`` seconds of it become one point."""

    env: Environment
    quantity: Quantity
    sensor_id: str
    begins: float
    ends: float
    step: float

    def victoria(self) -> list[Point] | None:
        """The points of a VictoriaMetrics; None if it is none."""
        # of JSON's escapes it knows all but the pairs that stand for an emoji
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
        """The points of an InfluxDB."""
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
        """The answer; None if the store has no such address."""
        url, path = self.env.influx_url, f"{path}?{urlencode(query)}"
        try:
            answer = _answer(url, path, _authorization(self.env), _CURVE_SECONDS)
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
    document = json_in(text)
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
    number = len(points)
    at, value = (sum(values) / number for values in zip(*points, strict=True))
    return Point(at, value)
