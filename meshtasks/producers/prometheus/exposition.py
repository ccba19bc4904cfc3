"""Metric families of Prometheus as records of the mesh.

A series becomes one metric with the fields below. Measurement and field together give,
for most of them, the name that the series has in Prometheus.

=========  ==================================================================
counter    ``total`` and ``per_second``
gauge      ``value``; also for untyped metrics, infos and state sets
summary    ``count``, ``sum``, ``count_per_second``, ``mean``, and a field for each
           of its quantiles (``p50``, ``p99_9``)
histogram  ``count``, ``sum``, ``count_per_second``, ``mean``, and quantiles of the
           values observed since the last page; in addition one metric for each
           bucket, with the field ``bucket`` and the tag ``le``
=========  ==================================================================
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate, pairwise
from typing import NamedTuple

from prometheus_client import Metric as Family
from prometheus_client.samples import Sample

from meshtasks.errors import InvalidMessage
from meshtasks.producers.base import MAX_ROUTING_KEY_BYTES
from meshtasks.producers.collecting import (
    Counters,
    Fields,
    Measured,
    Unforeseen,
    contained,
    metric,
    routing_word,
)
from meshtasks.records.points import metric_start
from meshtasks.records.timestamps import epoch_seconds
from meshtasks.text import clip


def quantile(q: float, buckets: Sequence[tuple[float, float]]) -> float | None:
    """Estimate a quantile of a histogram, as PromQL's ``histogram_quantile`` does.

    The values of a bucket are assumed to be evenly distributed
    (https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile).

    Args:
        q: the quantile, between 0 and 1.
        buckets: upper bounds and numbers of values up to them, both in rising order;
            the last bound is infinity.

    Returns:
        The value, or the highest finite bound if the value is above it. None if there
        are no values, or fewer than two buckets.
    """
    if len(buckets) < 2 or buckets[-1][0] != math.inf or buckets[-1][1] <= 0:  # noqa: PLR2004 - one with a bound, and the last
        return None
    rank = q * buckets[-1][1]
    lowest_bound, lowest_count = buckets[0]
    if rank <= lowest_count:
        if lowest_bound <= 0:
            return lowest_bound
        return lowest_bound * rank / lowest_count
    for (lower, below), (upper, count) in pairwise(buckets):
        if rank <= count:
            if upper == math.inf:
                return lower
            return lower + (upper - lower) * (rank - below) / (count - below)
    return None


_COUNT, _SUM = "count", "sum"
#: Counter → field with its rate.
_RATES = {"total": "per_second", _COUNT: "count_per_second"}
_REASON_LIMIT_CHARS = 200

_Labels = tuple[tuple[str, str], ...]
_Fields = dict[str, float | bool | None]


class LeftOut(StrEnum):
    """Reason why a sample is not published; also a field of the metric ``scrape``."""

    DUPLICATE = "duplicates"
    NOT_FINITE = "not_finite"
    REFUSED = "refused"


class Moment(NamedTuple):
    """Time at which a page was read: on the clock of rates, and in epoch seconds."""

    at_seconds: float
    wall_seconds: float


@dataclass(slots=True)
class Translated:
    """Metrics of a page, and the samples left out.

    Attributes:
        metrics: the metrics, with their routing keys.
        series: the series that the metrics contain.
        left_out: number of samples left out, by reason.
        example: what is wrong with the first sample that the mesh would reject.
    """

    metrics: list[Measured] = field(default_factory=list)
    series: set[tuple[str, _Labels]] = field(default_factory=set)
    left_out: Counter[LeftOut] = field(default_factory=Counter)
    example: str = ""

    def refuse(self, example: str) -> None:
        """Count a sample that the mesh would reject."""
        self.left_out[LeftOut.REFUSED] += 1
        self.example = self.example or clip(example, _REASON_LIMIT_CHARS)


class _Key(NamedTuple):
    """Identifies the series that samples belong to.

    Attributes:
        name: name of the metric.
        stamp: time of the samples on the page, epoch seconds; None without one.
        labels: without the labels of buckets and quantiles (``le``, ``quantile``).
    """

    name: str
    stamp: float | None
    labels: _Labels


@dataclass(slots=True)
class _Series:
    """Values of one series by field, and its buckets.

    Attributes:
        buckets: upper bound → number of values up to it.
    """

    gauges: dict[str, float] = field(default_factory=dict)
    counters: dict[str, float] = field(default_factory=dict)
    buckets: dict[float, float] = field(default_factory=dict)


class Translator:
    """Makes metrics of successive pages of one target.

    Args:
        service: the tag ``service``, and the third word of the routing keys.
        tags: tags of the target; a label of the same name becomes ``exported_…``.
        counters: readings of the earlier pages.
        quantiles: quantiles of histograms to publish, between 0 and 1.
        buckets: whether to publish the buckets of histograms.
    """

    def __init__(
        self,
        service: str,
        tags: Mapping[str, str],
        counters: Counters,
        *,
        quantiles: Sequence[float],
        buckets: bool,
    ) -> None:
        self._service = service
        self._tags = {"service": service, **tags}
        self._counters = counters
        self._quantiles = {_percentile(each): each for each in quantiles}
        self._with_buckets = buckets

    def translate(self, families: Iterable[Family], moment: Moment) -> Translated:
        """Return the metrics of a page.

        Left out and counted are: repetitions of a sample, values that are not finite,
        and samples that the mesh would reject.
        """
        result = Translated()
        seen: set[object] = set()
        points: set[tuple[str, float, str]] = set()
        for family in families:
            try:
                with contained():
                    grouped = _grouped(family, seen, result)
            except Unforeseen as error:
                result.refuse(f"{clip(str(family.name))}: {error}")
                continue
            for key, series in grouped.items():
                try:
                    with contained():
                        records = list(self._records_of(key, series, moment))
                except (InvalidMessage, Unforeseen) as error:
                    result.refuse(f"{clip(key.name)}: {error}")
                    continue
                new = [each for each in records if _is_new(each, points)]
                result.left_out[LeftOut.DUPLICATE] += len(records) - len(new)
                if new:
                    result.metrics += new
                    result.series.add((key.name, key.labels))
        result.left_out = +result.left_out
        return result

    def record(
        self,
        name: str,
        fields: Fields,
        timestamp: float,
        labels: _Labels = (),
    ) -> Measured:
        """Return one metric of the target.

        Raises:
            InvalidMessage: the mesh would reject it.
        """
        tags = dict(self._tags)
        known = {label for label, _ in labels}
        for label, value in labels:
            tag = label
            while (
                tag in self._tags
                or (tag != label and tag in known)
                or tag == "time"  # reserved by the stores, like a leading underscore
                or tag.startswith("_")
            ):
                tag = f"exported_{tag}"
            tags[tag] = value
        metric_start(name, tuple(sorted(tags.items())))
        routing_key = f"metrics.application.{self._service}.{routing_word(name)}"
        if len(routing_key) > MAX_ROUTING_KEY_BYTES:
            message = f"its routing key is longer than {MAX_ROUTING_KEY_BYTES} bytes"
            raise InvalidMessage(message)
        return Measured(routing_key, metric(name, fields, tags, timestamp))

    def _records_of(
        self, key: _Key, series: _Series, moment: Moment
    ) -> Iterator[Measured]:
        at_seconds, timestamp = moment
        if key.stamp is not None:
            at_seconds = key.stamp
            timestamp = epoch_seconds(key.stamp, moment.wall_seconds)
        fields: _Fields = {**series.counters, **series.gauges}
        fields |= self._rates(key, series, at_seconds)
        if fields:
            yield self.record(key.name, fields, timestamp, key.labels)
        if self._with_buckets:
            for bound, count in series.buckets.items():
                labels = (*key.labels, ("le", _le(bound)))
                yield self.record(key.name, {"bucket": count}, timestamp, labels)

    def _rates(self, key: _Key, series: _Series, at_seconds: float) -> _Fields:
        """Return rates, means and quantiles of the time since the last page."""
        # The page's own times are of another clock than elapsed_seconds().
        source = key._replace(stamp=None if key.stamp is None else 0.0)
        buckets = {_le(bound): count for bound, count in series.buckets.items()}
        counted = series.counters | buckets
        # Read separately: a sum of negative values decreases without a restart.
        total = counted.pop(_SUM, None)
        increase = sums = None
        if counted:
            increase = self._counters.read(source, counted, at_seconds)
        if total is not None:
            sums = self._counters.read((source, _SUM), {_SUM: total}, at_seconds)
        if increase is None:
            return {}
        rates: _Fields = {
            rate: increase.per_second(counter)
            for counter, rate in _RATES.items()
            if counter in increase.by
        }
        if sums is not None and (count := increase.by.get(_COUNT)):
            rates["mean"] = sums.by[_SUM] / count
        # A page written while values arrive may have decreasing buckets.
        bounds = sorted(series.buckets)
        new = [increase.by.get(_le(bound), 0.0) for bound in bounds]
        spread = list(zip(bounds, accumulate(new, max), strict=True))
        for name, q in self._quantiles.items():
            if (value := quantile(q, spread)) is not None:
                rates[name] = value
        return rates


def _is_new(measured: Measured, points: set[tuple[str, float, str]]) -> bool:
    """Return whether the metric has no point in common with others of the page.

    Series that differ for Prometheus can be one point in the store, which ignores empty
    labels.
    """
    record = measured.record
    start = metric_start(record["name"], tuple(sorted(record["tags"].items())))
    own = {(start, record["timestamp"], field) for field in record["fields"]}
    if not points.isdisjoint(own):
        return False
    points |= own
    return True


def _grouped(
    family: Family, seen: set[object], result: Translated
) -> dict[_Key, _Series]:
    """Return the samples of a family by series."""
    grouped: defaultdict[_Key, _Series] = defaultdict(_Series)
    for sample in family.samples:
        stamp = None if sample.timestamp is None else float(sample.timestamp)
        # Native histograms in OpenMetrics may have None as labels.
        labels = tuple(sorted((sample.labels or {}).items()))
        same = sample.name, labels, stamp
        if same in seen:
            result.left_out[LeftOut.DUPLICATE] += 1
            continue
        seen.add(same)
        if sample.value is None:
            result.refuse(f"{sample.name}: is a native histogram")
        elif not math.isfinite(sample.value):
            result.left_out[LeftOut.NOT_FINITE] += 1
        else:
            try:
                _add_sample(family, sample, stamp, labels, grouped)
            except ValueError:
                result.refuse(f"{sample.name}: has the labels {dict(labels)}")
    return grouped


def _add_sample(
    family: Family,
    sample: Sample,
    stamp: float | None,
    labels: _Labels,
    grouped: defaultdict[_Key, _Series],
) -> None:
    """Add a sample to its series.

    Raises:
        ValueError: the bound of a bucket is missing or not a number, or a quantile is
            not a number.
    """
    name, value = family.name, sample.value
    match family.type, sample.name.removeprefix(name):
        case (("counter" | "histogram" | "summary"), "_created"):
            return
        case (
            ("counter" | "histogram" | "summary"),
            ("_total" | "_count" | "_sum") as at,
        ):
            grouped[_Key(name, stamp, labels)].counters[at.removeprefix("_")] = value
        case "histogram", "_bucket":
            bound, others = _without(labels, "le")
            grouped[_Key(name, stamp, others)].buckets[bound] = value
        case "summary", "":
            q, others = _without(labels, "quantile")
            grouped[_Key(name, stamp, others)].gauges[_percentile(q)] = value
        case "gaugehistogram", ("_bucket" | "_gcount" | "_gsum") as at:
            grouped[_Key(name, stamp, labels)].gauges[at.removeprefix("_")] = value
        case _:
            grouped[_Key(sample.name, stamp, labels)].gauges["value"] = value


def _without(labels: _Labels, label: str) -> tuple[float, _Labels]:
    """Return the number in a label, and the other labels.

    Raises:
        ValueError: the label is missing, or is not a number.
    """
    number = float(dict(labels).get(label, ""))
    if math.isnan(number):
        raise ValueError
    return number, tuple(each for each in labels if each[0] != label)


def _le(bound: float) -> str:
    return "+Inf" if bound == math.inf else f"{bound:.15g}"


def _percentile(q: float) -> str:
    return f"p{100 * q:g}".replace(".", "_")
