"""Metrics become points, one for each metric however many fields it has; pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from meshtasks.errors import InvalidMessage
from meshtasks.flows.sightings import of_keys, of_readings
from meshtasks.outcome import Dead
from meshtasks.records.envelope import Envelope
from meshtasks.records.models import Metric
from meshtasks.records.points import (
    fields_of,
    fields_text,
    metric_start,
    point,
    tags_of,
)
from meshtasks.records.timestamps import UntimedMoments, moment_of, too_old
from meshtasks.rules.config import RuleBook
from meshtasks.rules.evaluation import Watched
from meshtasks.rules.series import Series
from meshtasks.state.sightings import Seen


class Transformed(NamedTuple):
    """A batch of readings or metrics as points.

    Attributes:
        indices: of the good records in the batch.
        times: of each good record, epoch seconds.
        lines: the point of each good record.
        watched: the samples by routing key and series.
        dead: index of each bad record → why.
        are_readings: and :attr:`watched` has those of all sensors.
    """

    indices: list[int]
    times: list[float]
    lines: list[str]
    watched: list[Watched]
    dead: dict[int, Dead]
    are_readings: bool = False

    def seen(self, envelopes: Sequence[Envelope]) -> Iterator[Seen]:
        """What the batch had of each sensor, or routing key.

        Args:
            envelopes: of its records.
        """
        if self.are_readings:
            return of_readings(self.watched)
        return of_keys([envelopes[index] for index in self.indices])


def metric_points(
    metrics: Sequence[Metric],
    envelopes: Sequence[Envelope],
    rules: RuleBook,
    oldest_seconds: float = math.inf,
) -> Transformed:
    """Write the points, and collect the samples that rules watch.

    Args:
        metrics: the metrics.
        envelopes: their messages.
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
            path = "" if metric.get("fields") is None else "fields."
            text = fields_text(fields, path)
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
