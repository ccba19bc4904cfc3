"""Steps that handlers share: points, alerts, the archive."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, TypeVar

from meshtasks.amqp.publisher import Outgoing
from meshtasks.errors import InvalidMessage, MeshError, SinkRejected, SinkUnavailable
from meshtasks.flows.contract import Batch
from meshtasks.flows.excerpts import (
    ARCHIVE,
    ArchivePolicy,
    archive_messages,
    excerpt,
    sampled,
)
from meshtasks.flows.pending import put_aside
from meshtasks.flows.sensor_activity import (
    BATTERY_PERCENT,
    of_battery,
    of_keys,
    of_readings,
)
from meshtasks.flows.sinks import PUBLISHER, RULE_STATE, TIMESERIES, Sinks
from meshtasks.outcome import DONE, Dead, Outcome, dead_of, outcome_of, retry_of
from meshtasks.records.envelope import Envelope, record_id
from meshtasks.records.json_text import members_of
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
from meshtasks.rules.detection import Series
from meshtasks.rules.evaluation import Watched, evaluate
from meshtasks.state.sensor_activity import BATTERY_LOW, Seen


class Transformed(NamedTuple):
    """A batch of readings or metrics, transformed to points.

    Attributes:
        indices: for each point, the index of its record in the batch.
        times: times of the points, epoch seconds.
        lines: the points in line protocol.
        watched: samples by routing key and series.
        dead: reasons of bad records, by index in the batch.
        are_readings: whether the records are readings, so that :attr:`watched` has the
            samples of all sensors.
        batteries: latest battery level of each device, by the start of its points.
    """

    indices: list[int]
    times: list[float]
    lines: list[str]
    watched: list[Watched]
    dead: dict[int, Dead]
    are_readings: bool = False
    batteries: Mapping[str, Seen | None] = {}

    def seen(self, envelopes: Sequence[Envelope]) -> Iterator[Seen]:
        """Activity of each sensor, or of each routing key if the records are metrics.

        Args:
            envelopes: messages of the records in the batch.
        """
        if self.are_readings:
            return of_readings(self.watched)
        own = of_keys([envelopes[index] for index in self.indices])
        return chain(own, filter(None, self.batteries.values()))


def metric_points(
    metrics: Sequence[Metric],
    envelopes: Sequence[Envelope],
    rules: RuleBook,
    oldest_seconds: float = math.inf,
) -> Transformed:
    """Make points of metrics, and collect the samples that rules watch.

    Args:
        metrics: records of a batch.
        envelopes: message of each record.
        rules: gives the rules that watch a field.
        oldest_seconds: a record that is older than this at its receipt is dead, unless
            its message may be old.
    """
    batteries: dict[str, Seen | None] = {}
    result = Transformed([], [], [], [], {}, batteries=batteries)
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
            result.dead[index] = dead_of(error)
            continue
        result.indices.append(index)
        result.times.append(time)
        result.lines.append(point(start, text, time))
        if envelope.is_quiet:
            continue
        if BATTERY_PERCENT in fields or BATTERY_LOW in fields:
            batteries[start] = of_battery(envelope, tags, fields)
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


R = TypeVar("R")

ALERTS_EXCHANGE = "alerts"


def store_points(batch: Batch[R], points: Transformed, sinks: Sinks) -> list[Outcome]:
    """Store the points of a batch, evaluate the rules, and archive the selected
    records. Each record has its own outcome.

    If points may be put aside, the rules are evaluated first, so that no alert waits
    for the store.

    Args:
        batch: the batch.
        points: its points.
        sinks: the sinks of the process.
    """
    outcomes: list[Outcome] = [DONE] * len(batch.records)
    for index, bad in points.dead.items():
        outcomes[index] = bad
    try:
        # a record may have several points
        stored = dict(zip(points.indices, points.times, strict=True))
        refused: Mapping[int, str] = {}
        if sinks.away is None:
            refused = sinks[TIMESERIES].write(points.lines)
        give_alerts(points.watched, sinks)
        if sinks.away is not None:
            refused = _write_or_put_aside(batch, points, sinks.away, sinks)
        for point, reason in refused.items():
            index = points.indices[point]
            outcomes[index] = Dead(reason, SinkRejected.__name__)
            stored.pop(index, None)
        send_to_archive(batch, stored, sinks)
        sinks.seen += points.seen(batch.envelopes)
    except MeshError as error:
        undecided = outcome_of(error)
        return [undecided if outcome is DONE else outcome for outcome in outcomes]
    return outcomes


def _write_or_put_aside(
    batch: Batch[R], points: Transformed, away: Collection[str], sinks: Sinks
) -> Mapping[int, str]:
    """Write points, or put them aside if the store is unavailable. Return the reasons
    of rejected lines, by index."""
    if TIMESERIES.name not in away:
        try:
            return sinks[TIMESERIES].write(points.lines, in_haste=True)
        except SinkUnavailable as error:
            sinks.deferred.append(retry_of(error))
    put_aside(batch, points.indices, points.lines, sinks)
    sinks.aside += len(set(points.indices))
    return {}


def give_alerts(watched: Iterable[Watched], sinks: Sinks) -> None:
    """Evaluate the rules, and publish alerts that begin or end.

    The alerts are confirmed before the new states are stored. After a crash between the
    two they are published again with the same message ids, and none is lost.

    Args:
        watched: series with their rules and new samples.
        sinks: give the states of rules and the publisher.
    """
    ruled = [item for item in watched if item.rules]
    if not ruled:
        return
    keys = [item.series.key for item in ruled]
    rule_states = sinks[RULE_STATE]
    now = rule_states.now()
    with rule_states.transaction(keys, now) as states:
        messages: list[Outgoing] = []
        for series, rules, samples, _ in ruled:
            state = states.get(series.key)
            states[series.key], alerts = evaluate(rules, series, state, samples, now)
            messages += [
                Outgoing(
                    ALERTS_EXCHANGE,
                    alert.routing_key,
                    alert.model_dump_json().encode(),
                    message_id=alert.event_id,
                    timestamp=now,
                )
                for alert in alerts
            ]
        if messages:
            sinks[PUBLISHER].publish(messages)


def send_to_archive(batch: Batch[R], stored: Mapping[int, float], sinks: Sinks) -> None:
    """Publish excerpts of the messages whose records the archive policy selects.

    Args:
        batch: the batch.
        stored: times (epoch seconds) of the records that may be archived, by index in
            the batch, in order.
        sinks: give the policy and the publisher.
    """
    excerpts = list(_excerpts(batch, stored, sinks.settings.read(ARCHIVE)))
    if excerpts:
        sinks[PUBLISHER].publish(list(archive_messages(excerpts, batch.queue)))


def _excerpts(
    batch: Batch[R], stored: Mapping[int, float], policy: ArchivePolicy
) -> Iterator[bytes]:
    if not policy.select:
        return
    envelopes, indexes = batch.envelopes, batch.indexes
    samples: dict[str, int] = {}  # by routing key
    ahead = list(stored.items())
    start = 0
    while start < len(ahead):
        index, time = ahead[start]
        envelope = envelopes[index]
        times, places = [time], [indexes[index]]
        start += 1
        if places[0] is not None:  # other records of its array may follow
            while start < len(ahead) and envelopes[ahead[start][0]] is envelope:
                index, time = ahead[start]
                times.append(time)
                places.append(indexes[index])
                start += 1
        key = envelope.routing_key
        one_in = samples.get(key)
        if one_in is None:
            one_in = samples[key] = policy.one_in(key)
        if not one_in or (envelope.headers and envelope.is_archived):
            continue
        if one_in > 1:
            chosen = sampled(key, times, one_in)
            times = [times[index] for index in chosen]
            places = [places[index] for index in chosen]
        if times:
            yield excerpt(envelope, times, places)


@dataclass(frozen=True, slots=True)
class IdentifiedRecord:
    """One record of a batch, and its id in the archive.

    Attributes:
        index: index in the batch.
        envelope: message of the record.
        id: see :func:`~meshtasks.records.envelope.record_id`.
        time: time of the record, epoch seconds.
    """

    index: int
    envelope: Envelope
    id: str
    time: float


def identified_records(
    batch: Batch[R],
    made: Iterable[tuple[int, float]],
    is_wanted: Callable[[str], bool],
) -> Iterator[IdentifiedRecord]:
    """The wanted records of a batch with their ids.

    Args:
        batch: the batch.
        made: index in the batch and time (epoch seconds) of records, in order.
        is_wanted: whether records with a routing key are wanted.
    """
    envelope: Envelope | None = None
    wanted = False
    members: list[bytes] = []
    occurrences: Counter[bytes] = Counter()
    for index, time in made:
        if batch.envelopes[index] is not envelope:
            envelope = batch.envelopes[index]
            wanted = is_wanted(envelope.routing_key)
            members = members_of(envelope.body) if wanted else []
            occurrences = Counter()
        if not wanted:
            continue
        record = members[batch.indexes[index] or 0]
        # Identical records are numbered. The index in the array would not do: failed
        # records are retried without the others, so their indexes change.
        name = record_id(envelope, record, occurrences[record], time)
        occurrences[record] += 1
        yield IdentifiedRecord(index, envelope, name, time)
