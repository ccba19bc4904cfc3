"""Metrics become points, one for each metric however many fields it has; pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from meshtasks.errors import InvalidMessage, SchemaMismatch
from meshtasks.flows.readings.transform import Transformed
from meshtasks.outcome import Dead
from meshtasks.records.envelope import Envelope
from meshtasks.records.models import Metric
from meshtasks.records.points import fields_text, metric_start, point
from meshtasks.records.timestamps import UntimedMoments, moment_of, too_old
from meshtasks.rules.config import RuleBook
from meshtasks.rules.evaluation import Watched
from meshtasks.rules.series import Series
from meshtasks.text import described

#: Field of a metric that is a single value.
VALUE = "value"

_LARGEST_TAG = 10**20  # str() refuses numbers of more than 4,300 digits

_Tags = tuple[tuple[str, str], ...]


def transform(
    metrics: Sequence[Metric],
    envelopes: Sequence[Envelope],
    rules: RuleBook,
    oldest_seconds: float = math.inf,
) -> Transformed:
    """Write the points, and collect the samples that rules watch.

    Args:
        metrics: the metrics.
        envelopes: the message each came in.
        rules: to find those that watch a field.
        oldest_seconds: an older one is dead, unless its message may be old.
    """
    result = Transformed([], [], [], [], {})
    watched: dict[tuple[str, str], dict[str, Watched]] = {}
    untimed = UntimedMoments()
    for index, (metric, envelope) in enumerate(zip(metrics, envelopes, strict=True)):
        try:
            name, fields, tags = metric["name"], fields_of(metric), tags_of(metric)
            start = metric_start(name, tags)
            place = "" if metric.get("fields") is None else "fields."
            text = fields_text(fields, place)
            stamp = metric.get("timestamp")
            if stamp is None:
                time = untimed.next(start, envelope)
            else:
                time = moment_of(stamp, envelope)
            if time < envelope.received_at - oldest_seconds and not envelope.may_be_old:
                raise too_old(time, envelope, oldest_seconds)
        except InvalidMessage as error:
            result.dead[index] = Dead(str(error), type(error).__name__)
            continue
        result.indices.append(index)
        result.times.append(time)
        result.lines.append(point(start, text, time))
        if envelope.is_quiet:
            continue
        routing_key = envelope.routing_key
        by_field = watched.get((routing_key, start))
        if by_field is None:
            by_field = watched[routing_key, start] = {
                field: Watched(
                    Series(f"{start}{field}=", name, "", field=field, tags=tags),
                    matching,
                    [],
                )
                for field, matching in rules.matching_metric(
                    routing_key, name, tags
                ).items()
            }
        for field, series in by_field.items():
            value = fields.get(field)
            if isinstance(value, int | float):  # true and false are 1 and 0
                series.samples.append((time, float(value)))
    result.watched.extend(
        series
        for by_field in watched.values()
        for series in by_field.values()
        if series.samples
    )
    return result


def fields_of(metric: Metric) -> Mapping[str, Any]:
    """The fields of a metric; a single value is the field ``value``.

    Raises:
        SchemaMismatch: it has neither value nor fields, or both.
    """
    value, fields = metric.get("value"), metric.get("fields")
    if fields is None:
        if value is None:
            message = "value: this field is missing, and there are no fields either"
            raise SchemaMismatch(message)
        return {VALUE: value}
    if value is not None:
        message = "value: expected value or fields, not both"
        raise SchemaMismatch(message)
    return fields


def tags_of(metric: Metric) -> _Tags:
    """The tags of a metric that have a value, as text, sorted by name.

    Raises:
        SchemaMismatch: a value is neither text nor number nor true or false.
    """
    tags = metric.get("tags")
    if not tags:
        return ()
    return tuple(
        sorted(
            (name, _tag_text(name, value))
            for name, value in tags.items()
            if value is not None
        )
    )


def _tag_text(name: str, value: object) -> str:
    """A tag is text; a number of a core or a port is common, and written so."""
    match value:
        case str():
            return value
        case bool() | float():
            return json.dumps(value)
        case int() if abs(value) < _LARGEST_TAG:
            return str(value)
        case _:
            message = f"tags.{name}: expected text, got {described(value)}"
            raise SchemaMismatch(message)
