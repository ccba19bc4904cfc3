r"""Readings and metrics as points in InfluxDB line protocol.

Escaping follows InfluxData's reference
(https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/): a backslash
escapes comma, equals sign and space in tags and names of fields, and comma and space in
measurements. Line breaks and tabs are not allowed there; they are written as ``\n``,
``\r`` and ``\t``, as by Telegraf and influxdb-client. A backslash before an ordinary
character (``C:\data``, ``DOMAIN\user``) is kept by every store. A backslash before
another one or before an escaped character, or at the end, is written as a slash:
InfluxDB and VictoriaMetrics read such texts differently, or silently drop the line.

Texts of fields are unchanged, except that line breaks are written as ``\n``, too:
VictoriaMetrics ends the line at a line break, and would lose the point.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from meshtasks.errors import SchemaMismatch
from meshtasks.records.models import Metric
from meshtasks.records.units import Quantity
from meshtasks.text import clip, described, is_no_value

#: Longest name or value of a tag, as long as an AMQP routing key.
TAG_LIMIT_CHARS = 255

_LARGEST_NUMBER = 10**308
#: Name of the field of a metric with a single value.
VALUE = "value"

_LARGEST_TAG = 10**20  # str() refuses numbers of more than 4,300 digits

_CONTROLS = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_ESCAPES = str.maketrans({",": r"\,", "=": r"\=", " ": r"\ ", **_CONTROLS})
_MEASUREMENT_ESCAPES = str.maketrans({",": r"\,", " ": r"\ ", **_CONTROLS})
_TEXT_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\\n"})
#: Characters that are refused in tags and names. Surrogates come from routing keys that
#: are not UTF-8.
_UNWRITABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_UNWRITABLE_IN_TEXT = re.compile(r"[\ud800-\udfff]")
#: A backslash that stores read differently.
_AMBIGUOUS = re.compile(r"\\(?=[\\,= \t\r\n]|\Z)")


@lru_cache(maxsize=16_384)
def line_start(quantity: Quantity, sensor_id: str, location: str) -> str:
    """The line of a reading up to its value: ``temperature,sensor_id=a celsius=``.

    The result is cached, since it is the same for every reading of a sensor. Without
    the cache, making a point takes 2.8 times as long.

    Args:
        quantity: what the sensor measures.
        sensor_id: id of the sensor; 1 to 255 characters.
        location: location of the sensor; blank for none.

    Raises:
        SchemaMismatch: a tag is empty or too long, or contains a control character or
            a lone surrogate.
    """
    tags = f"sensor_id={_tag('sensor_id', sensor_id)}"
    if location.strip():
        tags = f"location={_tag('location', location)},{tags}"
    return f"{quantity.kind},{tags} {quantity.field}="


def lines(
    starts: Iterable[str], values: Sequence[float], times: Iterable[float]
) -> list[str]:
    """The points of many readings, as lines.

    All values are encoded together, in a fifth of the time of ``repr`` for each.

    Args:
        starts: beginnings of the lines, see :func:`line_start`.
        values: values in the canonical unit.
        times: times in epoch seconds; the lines have milliseconds.
    """
    if not values:
        return []
    texts = msgspec.json.encode(values).decode()[1:-1].split(",")
    return [
        f"{start}{value} {int(time * 1000 + 0.5)}"
        for start, value, time in zip(starts, texts, times, strict=True)
    ]


def fields_of(metric: Metric) -> Mapping[str, Any]:
    """The fields of a metric; a single value is the field ``value``.

    Raises:
        SchemaMismatch: the metric has neither ``value`` nor ``fields``, or both.
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


def tags_of(metric: Metric) -> tuple[tuple[str, str], ...]:
    """Names and values of a metric's tags as text, sorted by name, without null.

    Raises:
        SchemaMismatch: a value is neither text, number, true nor false.
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
    """The value of a tag as text. Numbers are accepted; cores and ports are common."""
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


@lru_cache(maxsize=16_384)
def metric_start(name: str, tags: tuple[tuple[str, str], ...]) -> str:
    """The line of a metric up to its fields: ``disk,host=nas ``; cached.

    Args:
        name: measurement.
        tags: names and values, sorted by name; tags with a blank value are left out.

    Raises:
        SchemaMismatch: a name or value cannot be written.
    """
    if name.startswith("#"):
        message = 'name: must not begin with "#", which makes a line a comment'
        raise SchemaMismatch(message)
    start = _without_ambiguity(_name("name", name)).translate(_MEASUREMENT_ESCAPES)
    for tag, value in tags:
        if value.strip():
            start += f",{_key('tags', tag)}={_tag(f'tags.{tag}', value)}"
    return f"{start} "


def fields_text(fields: Mapping[str, object], path: str = "fields.") -> str:
    """The fields of one point as text: ``free=7.0,ok=true,used_percent=91.5``.

    All numbers are written as floats, because a typed store keeps the type of a field's
    first value and refuses others, and many publishers write 21.0 as ``21``. For the
    same reason a text such as ``unavailable`` is left out: stored first, it would make
    the store refuse the numbers of the field.

    Args:
        fields: name → value; None is left out.
        path: path of the fields in their record, for errors.

    Raises:
        SchemaMismatch: no value is left, or a value cannot be written.
    """
    text = ",".join(
        f"{_key('fields', name)}={_field_value(path, name, value)}"
        for name, value in fields.items()
        if is_value(value)
    )
    if not text:
        raise SchemaMismatch(_no_value(path, fields))
    return text


def is_value(value: object) -> bool:
    """Whether a field has a value: neither null nor a text such as ``unknown``."""
    return value is not None and not (isinstance(value, str) and is_no_value(value))


def _no_value(path: str, fields: Mapping[str, object]) -> str:
    for name, value in fields.items():
        if value is not None:
            return (
                f"{path}{name}: {described(value)} is no value, and there is no other"
            )
    return "fields: expected at least one value"


def point(start: str, fields: str, time_seconds: float) -> str:
    """One point of a metric, as a line.

    Args:
        start: beginning of the line, see :func:`metric_start`.
        fields: see :func:`fields_text`.
        time_seconds: time in epoch seconds; the line has milliseconds.
    """
    return f"{start}{fields} {int(time_seconds * 1000 + 0.5)}"


def _field_value(path: str, name: str, value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() if abs(value) < _LARGEST_NUMBER:
            return f"{float(value)!r}"
        case int():
            wrong = "a number with more than 308 digits"
        case float() if math.isfinite(value):
            return repr(value)
        case float():
            wrong = described(value)
        case str():
            if found := _UNWRITABLE_IN_TEXT.search(value):
                wrong = f"text with {found[0]!a}"
            else:
                return f'"{value.translate(_TEXT_ESCAPES)}"'
        case dict() | list():
            wrong = f"{described(value)}; give each value inside a field of its own"
        case _:
            wrong = described(value)
    message = f"{path}{name}: expected a number, true, false or text, got {wrong}"
    raise SchemaMismatch(message)


@lru_cache(maxsize=16_384)
def _key(path: str, name: str) -> str:
    """The name of a tag or field, escaped; cached."""
    if name == "time":
        message = f'{path}: "time" is the name of the timestamp'
        raise SchemaMismatch(message)
    return _without_ambiguity(_name(path, name)).translate(_ESCAPES)


def _name(path: str, name: str) -> str:
    """Check a name. Names that begin with an underscore are reserved by the stores
    (``_field`` in InfluxDB, ``__name__`` in VictoriaMetrics)."""
    if name.startswith("_"):
        message = f'{path}: "{clip(name)}" must not begin with an underscore'
        raise SchemaMismatch(message)
    return _checked(path, name)


def _tag(path: str, value: str) -> str:
    return _without_ambiguity(_checked(path, value)).translate(_ESCAPES)


def _without_ambiguity(text: str) -> str:
    return _AMBIGUOUS.sub("/", text) if "\\" in text else text


def _checked(path: str, text: str) -> str:
    if not text.strip():
        message = f"{path}: is empty"
        raise SchemaMismatch(message)
    if len(text) > TAG_LIMIT_CHARS:
        message = f"{path}: has {len(text)} characters; {TAG_LIMIT_CHARS} are allowed"
        raise SchemaMismatch(message)
    if found := _UNWRITABLE.search(text):
        message = f"{path}: must not contain {found[0]!a}"
        raise SchemaMismatch(message)
    return text
