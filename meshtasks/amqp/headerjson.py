"""AMQP headers as JSON, and back, with their types.

What JSON has no type for is an object of one member whose name begins with ``$``:
``{"$bytes": "/wA="}``, ``{"$decimal": "1.50"}``, ``{"$time": 1795435200}``,
``{"$float": "nan"}``. A table that looks so itself stands in ``{"$table": …}``.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

_MARK = "$"


def as_json(value: object) -> Any:
    """A value of a header as JSON has it."""
    if isinstance(value, dict):
        table = {str(name): as_json(item) for name, item in value.items()}
        return {"$table": table} if _is_marked(table) else table
    if isinstance(value, list):
        return [as_json(item) for item in value]
    return _marked(value)


def _marked(value: object) -> Any:
    match value:
        case bytes():
            return {"$bytes": base64.b64encode(value).decode()}
        case Decimal():
            return {"$decimal": str(value)}
        case datetime():  # AMQP's has no zone: it counts seconds since the epoch
            return {"$time": int(value.replace(tzinfo=UTC).timestamp())}
        case float() if not math.isfinite(value):
            return {"$float": str(value)}
        case _:
            return value


def from_json(value: Any) -> Any:
    """What :func:`as_json` has made JSON of.

    Raises:
        ValueError: the type is none of these, or the value none of its type.
    """
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if not _is_marked(value):
        return _table(value)
    ((kind, written),) = value.items()
    try:
        return _READERS[kind](written)
    except (KeyError, AttributeError, TypeError, ArithmeticError, OSError) as error:
        message = f"{kind} is no type of a header, or {written!r} no value of it"
        raise ValueError(message) from error


def _table(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: from_json(item) for name, item in value.items()}


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)


_READERS: Mapping[str, Callable[[Any], object]] = {
    "$bytes": lambda text: base64.b64decode(text, validate=True),
    "$decimal": Decimal,
    "$time": _time,
    "$float": float,
    "$table": _table,
}


def _is_marked(table: Mapping[str, Any]) -> bool:
    return len(table) == 1 and next(iter(table)).startswith(_MARK)
