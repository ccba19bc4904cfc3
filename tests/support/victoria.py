"""Read back what VictoriaMetrics has stored."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from meshtasks.demo import loopback
from meshtasks.demo.servers import VictoriaMetrics

EVERYTHING = '{__name__!=""}'


@dataclass(frozen=True, slots=True)
class Series:
    """All samples of one series, by time.

    Attributes:
        name: ``<measurement>_<field>``.
        labels: the tags.
        samples: value by epoch milliseconds.
    """

    name: str
    labels: dict[str, str]
    samples: dict[int, float]


def force_flush(victoria: VictoriaMetrics) -> None:
    """Make everything received visible to queries now."""
    loopback.request("GET", victoria.port, "/internal/force_flush")


def export(victoria: VictoriaMetrics, match: str = EVERYTHING) -> list[Series]:
    """Every series that a selector matches, with every sample, sorted."""
    force_flush(victoria)
    query = urlencode({"match[]": match})
    lines = loopback.request("GET", victoria.port, f"/api/v1/export?{query}")
    found = []
    for line in map(json.loads, lines.splitlines()):
        labels = dict(line["metric"])
        samples = dict(zip(line["timestamps"], line["values"], strict=True))
        found.append(Series(labels.pop("__name__"), labels, samples))
    return sorted(
        found, key=lambda series: (series.name, sorted(series.labels.items()))
    )


def count_samples(victoria: VictoriaMetrics, match: str = EVERYTHING) -> int:
    """Distinct samples of all series that a selector matches."""
    return sum(len(series.samples) for series in export(victoria, match))


def query(victoria: VictoriaMetrics, expression: str) -> list[dict[str, Any]]:
    """The result vector of an instant query now."""
    path = f"/api/v1/query?{urlencode({'query': expression})}"
    answer = json.loads(loopback.request("GET", victoria.port, path))
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result
