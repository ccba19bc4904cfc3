"""How a VictoriaMetrics is run that is the time-series store.

It answers 204 to points that it does not keep: those older than its retention, a month
unless a flag says otherwise; and unless another flag says so, it keeps a point that is
written twice twice. Both can be read: its flags at ``/flags``, its counters at
``/metrics``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from urllib3.exceptions import HTTPError

from meshtasks.flows.http import pool_manager, request

_TIMEOUT_SECONDS = 5.0
_OK = 200
_FLAG = re.compile(r'^-(?P<name>[\w.]+)="(?P<value>.*)"$', re.MULTILINE)
_DROPPED_OLD = re.compile(
    r'^vm_rows_ignored_total\{[^}]*reason="small_timestamp"[^}]*\} (\S+)$',
    re.MULTILINE,
)
_DROPPED_LABELS = re.compile(
    r"^vm_metrics_with_dropped_labels_total(?:\{[^}]*\})? (\S+)$", re.MULTILINE
)
_RETENTION = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>[hdwyM]?)")
_DEFAULT_RETENTION = "1"
_DAY = 86_400.0
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
    """

    retention_seconds: float
    flags: dict[str, str]
    dropped_old: int
    dropped_labels: int

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
        if _is_zero(self.flags.get("dedup.minScrapeInterval", "")):
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


def look(url: str) -> VictoriaMetricsState | None:
    """How the time-series store at this base URL is run; None if it is no
    VictoriaMetrics, or does not show it."""
    base = url.rstrip("/")
    pool = pool_manager(maxsize=1)
    try:
        pages = []
        for path in ("/flags", "/metrics"):
            answer = request(pool, "GET", base + path, timeout_seconds=_TIMEOUT_SECONDS)
            if answer.status != _OK:
                return None
            pages.append(answer.text)
    except HTTPError:
        return None
    finally:
        pool.clear()
    flags = {found["name"]: found["value"] for found in _FLAG.finditer(pages[0])}
    if "vm_rows_ignored_total" not in pages[1]:
        return None
    # only flags that were given are shown
    retention = flags.setdefault("retentionPeriod", _DEFAULT_RETENTION)
    return VictoriaMetricsState(
        retention_seconds(retention),
        flags,
        _count(_DROPPED_OLD, pages[1]),
        _count(_DROPPED_LABELS, pages[1]),
    )


def retention_seconds(text: str) -> float:
    """A ``-retentionPeriod`` in seconds; infinite if it is none that we know.

    Args:
        text: a number with ``h``, ``d``, ``w``, ``M`` or ``y``, or of months.
    """
    found = _RETENTION.fullmatch(text)
    return float(found["number"]) * _UNITS[found["unit"]] if found else float("inf")


def _is_zero(duration: str) -> bool:
    return not re.search(r"[1-9]", duration)


def _count(pattern: re.Pattern[str], page: str) -> int:
    return sum(int(float(value)) for value in pattern.findall(page))
