"""Archived records as rows of typed tables. Pure functions.

Every archived record is in one table. A reading has the value and canonical unit of the
time-series store. A metric has one row for each field. Any other record, and a reading
or metric that is not valid, is an event, with its JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from meshtasks.errors import InvalidMessage, SchemaMismatch
from meshtasks.flows.archive.reading import ArchivedRecord, read_line
from meshtasks.records.kinds import KindsConfig
from meshtasks.records.models import Metric, explain
from meshtasks.records.points import fields_of, fields_text, is_value, tags_of
from meshtasks.records.units import DECIMALS, IDENTITY

Table = Literal["readings", "metrics", "events"]
TABLES: tuple[Table, ...] = get_args(Table)

_METRIC = TypeAdapter(Metric)

#: Members with the subject of an event; the first that is a text is used.
_ENTITY_MEMBERS = ("entity_id", "sensor_id", "automation", "model", "source")


class Reading(NamedTuple):
    """A row of ``readings``.

    Attributes:
        time_ms: time of the reading, epoch milliseconds.
        kind: second word of its routing key, such as ``temperature``.
        sensor_id: id of the sensor.
        location: location of the sensor, if known.
        value: value in ``unit``.
        unit: canonical unit of the kind; for a kind that is not configured, the unit as
            published, if any.
        routing_key: routing key as published.
        record_id: see :func:`~meshtasks.records.envelope.record_id`.
    """

    time_ms: int
    kind: str
    sensor_id: str
    location: str | None
    value: float
    unit: str | None
    routing_key: str
    record_id: str


class MetricField(NamedTuple):
    """A row of ``metrics``: one field of one metric.

    Attributes:
        time_ms: time of the metric, epoch milliseconds.
        name: name of the metric.
        field: ``value``, or the name of one of the metric's fields.
        value: numeric value; true is 1 and false is 0.
        text: value of a field that is not numeric.
        tags: names and values, sorted by name.
        routing_key: routing key as published.
        record_id: id of the metric; all its rows have it.
    """

    time_ms: int
    name: str
    field: str
    value: float | None
    text: str | None
    tags: tuple[tuple[str, str], ...]
    routing_key: str
    record_id: str


class Event(NamedTuple):
    """A row of ``events``.

    Attributes:
        time_ms: time of the event, epoch milliseconds.
        entity: subject of the event: an entity, sensor, automation, model or source.
        record: JSON of the record as published.
        routing_key: routing key as published.
        record_id: see :func:`~meshtasks.records.envelope.record_id`.
    """

    time_ms: int
    entity: str | None
    record: str
    routing_key: str
    record_id: str


class Rows(NamedTuple):
    """Rows by table; the attributes have the names of the tables.

    Attributes:
        faults: what is wrong with lines that have no rows, because they are not lines
            of the archive (the object was damaged after it was written).
    """

    readings: list[Reading]
    metrics: list[MetricField]
    events: list[Event]
    faults: list[str]


class _ParsedRecord(NamedTuple):
    """A parsed archive line.

    Attributes:
        record: the parsed JSON; None if the parser rejects it, because of its depth or
            of a number that is too long.
        text: the JSON of the record.
    """

    id: str
    routing_key: str
    time_ms: int
    record: Any
    text: str

    @property
    def words(self) -> tuple[str, str, str]:
        """Domain, kind, and the rest of the routing key; empty if missing."""
        domain, kind, tail, *_ = (*self.routing_key.split(".", 2), "", "", "")
        return domain, kind, tail


def rows_of(content: bytes, kinds: KindsConfig) -> Rows:
    """Return the rows of an archive object. No line raises an error.

    Args:
        content: lines of the object, see
            :func:`~meshtasks.flows.excerpts.archive_line`.
        kinds: default units, for readings that name none.
    """
    rows = Rows([], [], [], [])
    for number, text in enumerate(content.splitlines(), start=1):
        try:
            line = _parsed(read_line(text))
        except SchemaMismatch as error:
            rows.faults.append(f"line {number}: {error}")
            continue
        domain = line.routing_key.partition(".")[0]
        try:
            match domain:
                case "sensors":
                    rows.readings.append(_reading(line, kinds))
                case "metrics":
                    rows.metrics.extend(_fields(line))
                case _:
                    rows.events.append(_event(line))
        except InvalidMessage:  # an event has the whole JSON
            rows.events.append(_event(line))
    return rows


def reading_of(
    record: Any, routing_key: str, time_ms: int, kinds: KindsConfig
) -> Reading:
    """Return a record of the exchange ``sensors`` as it would be stored.

    Args:
        record: parsed JSON of the record.
        time_ms: time of the reading, epoch milliseconds.

    Raises:
        InvalidMessage: it is not a reading, or its unit or value is invalid.
    """
    return _reading(_ParsedRecord("", routing_key, time_ms, record, ""), kinds)


def _parsed(line: ArchivedRecord) -> _ParsedRecord:
    try:
        record = from_json(line.record)
    except ValueError:
        record = None
    time_ms = round(line.time * 1000)
    return _ParsedRecord(
        line.id, line.routing_key, time_ms, record, line.record.decode()
    )


def _reading(line: _ParsedRecord, kinds: KindsConfig) -> Reading:
    """Return the reading in its canonical unit.

    Raises:
        InvalidMessage: it is not a reading, or its unit or value is invalid.
    """
    _, kind, tail = line.words
    reading = line.record if isinstance(line.record, dict) else {"value": line.record}
    if isinstance(reading.get("value"), bool):
        raise SchemaMismatch
    value, unit = _number(reading.get("value")), _text(reading, "unit")
    if quantity := kinds.quantities.get(kind):
        unit = unit or kinds.default_unit(quantity)
        affine = quantity.affine(unit)
        if affine is not IDENTITY:
            value = round(value * affine.scale + affine.offset, DECIMALS)
        if not quantity.lowest <= value <= quantity.highest:
            raise SchemaMismatch
        unit = quantity.canonical_unit
    sensor_id = _text(reading, "sensor_id") or tail
    if not kind or not sensor_id:
        raise SchemaMismatch
    return Reading(
        line.time_ms,
        kind,
        sensor_id,
        _text(reading, "location"),
        value,
        unit,
        line.routing_key,
        line.id,
    )


def _fields(line: _ParsedRecord) -> list[MetricField]:
    """Return the fields of a metric.

    Raises:
        InvalidMessage: it is not a metric, or a name or value is invalid.
    """
    try:
        metric = _METRIC.validate_python(line.record)
    except ValidationError as error:
        raise SchemaMismatch(explain(error)) from error
    fields, tags = fields_of(metric), tags_of(metric)
    fields_text(fields)  # raises if the time-series store would reject them
    return [
        MetricField(
            line.time_ms,
            metric["name"],
            field,
            None if isinstance(value, str) else _number(value),
            value if isinstance(value, str) else None,
            tags,
            line.routing_key,
            line.id,
        )
        for field, value in fields.items()
        if is_value(value)
    ]


def _event(line: _ParsedRecord) -> Event:
    return Event(
        line.time_ms,
        next(_entities(line), None),
        line.text,
        line.routing_key,
        line.id,
    )


def _entities(line: _ParsedRecord) -> Iterator[str]:
    if isinstance(line.record, dict):
        for member in _ENTITY_MEMBERS:
            if text := _text(line.record, member):
                yield text
    if tail := line.words[2]:
        yield tail


def _text(record: Mapping[str, Any], member: str) -> str | None:
    """Return the text of a member; None if it is blank or not a text."""
    value = record.get(member)
    return value if isinstance(value, str) and value.strip() else None


def _number(value: object) -> float:
    """Return a finite number; true is 1 and false is 0."""
    if not isinstance(value, int | float):
        raise SchemaMismatch
    if not abs(value) <= sys.float_info.max:  # infinite, or not a number
        raise SchemaMismatch
    return float(value)
