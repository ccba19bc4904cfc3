"""Sensor readings become points and alerts. The flow handles ``sensors.temperature``,
``sensors.humidity``, and every queue that queues.yaml assigns to this flow with a kind
of kinds.yaml.

Readings are converted to the canonical unit and written to the time-series store, one
request per batch. This is the reason for batches: the request costs as much as a
hundred readings. Then the rules evaluate the readings, and those that archive.yaml
selects are sent to the archive.

A rerun is harmless: a point is identified by its series and time, rules ignore
readings that they have evaluated, and the archive identifies every record by its id.

Every reading passes through the loop of :func:`transform`, the hot path. Values that
are the same for all readings of a sensor in a batch are looked up once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from meshtasks.amqp.queues import QUEUES
from meshtasks.config.settings import Settings
from meshtasks.errors import InvalidMessage, SchemaMismatch
from meshtasks.flows.contract import Batch, Flow, Handler
from meshtasks.flows.diagnosis import Detail, Doubt, rule_details, rule_doubts
from meshtasks.flows.excerpts import ARCHIVE
from meshtasks.flows.pipeline import Transformed, store_points
from meshtasks.flows.sinks import RULE_STATE, TIMESERIES, Sinks
from meshtasks.outcome import Dead, Outcome, dead_of
from meshtasks.records.envelope import Envelope, sensor_of_key
from meshtasks.records.kinds import KINDS, QUANTITIES
from meshtasks.records.models import Reading, SensorReading
from meshtasks.records.points import line_start, lines
from meshtasks.records.timestamps import (
    UntimedMoments,
    moment_of,
    plausible_times,
    too_old,
)
from meshtasks.records.units import DECIMALS, IDENTITY, Affine, Quantity
from meshtasks.rules.config import RULES, RuleBook
from meshtasks.rules.detection import Sample, Series
from meshtasks.rules.evaluation import Watched


class _Source(NamedTuple):
    """Readings of one sensor, at one location, in one unit.

    Attributes:
        start: the lines of their points up to the value, see :func:`line_start`.
        affine: conversion to the canonical unit; None if they are in that unit.
        samples: list to which their samples are added for the rules.
    """

    start: str
    affine: Affine | None
    samples: list[Sample]


class _Sources:
    """The sources in a batch."""

    def __init__(self, quantity: Quantity, default_unit: str, rules: RuleBook) -> None:
        self._quantity = quantity
        self._default_unit = default_unit
        self._rules = rules
        self._watched: dict[tuple[str, str, bool], Watched] = {}
        self._known: defaultdict[tuple[str, bool] | str, dict[object, _Source]] = (
            defaultdict(dict)
        )

    def known(self, envelope: Envelope) -> dict[object, _Source]:
        """The sources found so far in messages with this routing key and quiet flag,
        by the reading's sensor, unit and location."""
        key: tuple[str, bool] | str = envelope.routing_key
        if envelope.headers:
            key = envelope.routing_key, envelope.is_quiet
        return self._known[key]

    def watched(self) -> list[Watched]:
        """The samples by routing key and series, with or without rules."""
        return [item for item in self._watched.values() if item.samples]

    def of(self, reading: Reading, envelope: Envelope) -> _Source:
        """Return the source of a reading.

        Raises:
            InvalidMessage: the sensor id is missing or invalid, or the unit is not one
                of the kind.
        """
        quantity = self._quantity
        affine = quantity.affine(reading.unit or self._default_unit)
        sensor_id = reading.sensor_id
        if sensor_id is None:
            sensor_id = sensor_of_key(envelope)
        location = reading.location or ""
        start = line_start(quantity, sensor_id, location)
        quiet = bool(envelope.headers) and envelope.is_quiet
        key = envelope.routing_key, start, quiet
        watched = self._watched.get(key)
        if watched is None:
            matching = self._rules.matching(envelope.routing_key, sensor_id)
            series = Series(
                start, quantity.kind, quantity.canonical_unit, sensor_id, location
            )
            rules = () if quiet else matching
            watched = self._watched[key] = Watched(series, rules, [], envelope)
        unit_affine = None if affine is IDENTITY else affine
        return _Source(start, unit_affine, watched.samples)


def transform(  # noqa: C901 - the hot path, in which each call costs 0.1 µs
    readings: Sequence[Reading],
    envelopes: Sequence[Envelope],
    quantity: Quantity,
    default_unit: str,
    rules: RuleBook,
    oldest_seconds: float = math.inf,
) -> Transformed:
    """Validate readings against their envelopes, convert them, and make their points.
    The function is pure.

    Args:
        quantity: the quantity that was measured.
        default_unit: unit of readings that name none.
        rules: all rules; those that match a series are looked up.
        oldest_seconds: maximum age of a reading in seconds; an older one is dead,
            unless its message may be old.
    """
    times: list[float] = []
    starts: list[str] = []
    values: list[float] = []
    dead: dict[int, Dead] = {}
    lowest, highest = quantity.lowest, quantity.highest
    sources = _Sources(quantity, default_unit, rules)
    untimed = UntimedMoments()
    origin: Envelope | None = None
    earliest = latest = 0.0
    for index, (reading, envelope) in enumerate(zip(readings, envelopes, strict=True)):
        if envelope is not origin:  # the records of an array share one envelope
            origin = envelope
            known = sources.known(envelope)
            earliest, latest = plausible_times(envelope, oldest_seconds)
        try:
            sensor = reading.sensor_id, reading.unit, reading.location
            source = known.get(sensor)
            if source is None:
                source = known[sensor] = sources.of(reading, envelope)
            start, affine, samples = source
            value = reading.value
            if affine is not None:
                value = round(value * affine[0] + affine[1], DECIMALS)
            if not lowest <= value <= highest:
                unit = reading.unit or default_unit
                raise SchemaMismatch(quantity.impossible(value, unit))
            stamp = reading.timestamp
            if stamp is None:
                time = untimed.next(start, envelope)
            elif type(stamp) is datetime:
                time = stamp.timestamp()
            else:
                time = moment_of(stamp, envelope)
            if not earliest <= time <= latest:
                moment_of(stamp, envelope)  # raises with the reason
                if time < earliest:
                    raise too_old(time, envelope, oldest_seconds)
        except InvalidMessage as error:
            dead[index] = dead_of(error)
            continue
        times.append(time)
        starts.append(start)
        values.append(value)
        samples.append((time, value))
    indices = [index for index in range(len(readings)) if index not in dead]
    points = lines(starts, values, times)
    watched = sources.watched()
    return Transformed(indices, times, points, watched, dead, are_readings=True)


def handler_of_kind(queue: str, kind: str) -> Handler:
    """Return the handler of a queue whose records are readings of one kind.

    Args:
        kind: name of a built-in kind, or of one in kinds.yaml.
    """

    def store_readings(batch: Batch[Reading], sinks: Sinks) -> list[Outcome]:
        return store_points(
            batch, _transformed(batch.records, batch.envelopes, sinks.settings), sinks
        )

    def validate(
        records: Sequence[Reading], envelopes: Sequence[Envelope], settings: Settings
    ) -> Mapping[int, Dead]:
        return _transformed(records, envelopes, settings).dead

    def _transformed(
        records: Sequence[Reading], envelopes: Sequence[Envelope], settings: Settings
    ) -> Transformed:
        kinds = settings.read(KINDS)
        quantity = kinds.quantities[kind]
        return transform(
            records,
            envelopes,
            quantity,
            kinds.default_unit(quantity),
            settings.read(RULES),
            kinds.oldest_seconds(kind),
        )

    store_readings.__doc__ = f"Store readings of the kind {kind}."
    return Handler(
        queue,
        store_readings,
        SensorReading,
        (TIMESERIES, RULE_STATE),
        bare_value=True,
        defers=True,
        validate=validate,
        struct=Reading,
    )


def _doubts(settings: Settings, handlers: Mapping[str, Handler]) -> Iterator[Doubt]:
    queues = {
        queue for queue, handler in handlers.items() if handler.record is SensorReading
    }
    yield from rule_doubts(settings, queues, "readings", of_metrics=False)
    used = {entry.kind for entry in settings.read(QUEUES).queues.values()}
    for kind in sorted(settings.read(KINDS).kinds.keys() - used):
        text = f"no queue has the kind {kind}; queues.yaml should give it one"
        yield Doubt("warning", KINDS, f"kinds.{kind}", text)


def _explain(
    settings: Settings, _handler: Handler, routing_key: str
) -> Iterator[Detail]:
    return rule_details(settings, routing_key, of_metrics=False)


FLOW = Flow(
    "readings",
    handlers=tuple(handler_of_kind(f"sensors.{kind}", kind) for kind in QUANTITIES),
    by_kind=handler_of_kind,
    files=(RULES, KINDS, ARCHIVE),
    sinks=(RULE_STATE,),
    doubts=_doubts,
    explain=_explain,
)
