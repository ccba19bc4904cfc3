"""Messages that no handler can take: the ten ways devices break the format."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum

#: AMQP header that names what is wrong with a simulated bad message.
LABEL_HEADER = "x-simulated-fault"

#: Twice what the queues take.
_OVERSIZED_BYTES = 2 * 1024 * 1024


class BadKind(StrEnum):
    """What is wrong with a message."""

    NOT_JSON = "not_json"
    NOT_UTF8 = "not_utf8"
    EMPTY = "empty"
    ARRAY_WITH_BAD_MEMBERS = "array_with_bad_members"
    MISSING_VALUE = "missing_value"
    VALUE_AS_TEXT = "value_as_text"
    NAN = "nan"
    UNKNOWN_UNIT = "unknown_unit"
    IMPOSSIBLE_TIMESTAMP = "impossible_timestamp"
    OVERSIZED = "oversized"

    @property
    def bad_records(self) -> int:
        """Records of such a message that end as dead letters."""
        return 2 if self is BadKind.ARRAY_WITH_BAD_MEMBERS else 1

    @property
    def good_records(self) -> int:
        """Records of such a message that are stored all the same."""
        return 2 if self is BadKind.ARRAY_WITH_BAD_MEMBERS else 0


class Deck:
    """Deals the kinds of bad messages, each once before any comes again.

    But for oversized ones: after the first round only one in twenty has one, or
    a dead-letter queue would soon hold little else.
    """

    _ROUNDS_PER_OVERSIZED = 20

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._cards: list[BadKind] = []
        self._rounds = 0

    def deal(self) -> BadKind:
        """The next kind."""
        if not self._cards:
            self._cards = list(BadKind)
            if self._rounds % self._ROUNDS_PER_OVERSIZED:
                self._cards.remove(BadKind.OVERSIZED)
            self._rng.shuffle(self._cards)
            self._rounds += 1
        return self._cards.pop()


def bad_body(kind: BadKind, sensor_id: str, now_ms: int, rng: random.Random) -> bytes:
    """A body of this kind, as a sensor of this id might send it by mistake."""
    return _MAKERS[kind](_Draft(sensor_id, now_ms, rng))


class _Draft:
    """A good reading, to be spoilt."""

    def __init__(self, sensor_id: str, now_ms: int, rng: random.Random) -> None:
        self.sensor_id = sensor_id
        self.now_ms = now_ms
        self.rng = rng
        self._record: dict[str, object] = {
            "sensor_id": sensor_id,
            "value": round(rng.uniform(18.0, 24.0), 2),
            "timestamp": now_ms,
        }

    def but(self, **changes: object) -> dict[str, object]:
        """The reading with some fields changed."""
        return {**self._record, **changes}

    def without_value(self) -> dict[str, object]:
        """The reading without its value."""
        return {name: self._record[name] for name in ("sensor_id", "timestamp")}


def _encoded(record: object) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode()


def _array_with_bad_members(draft: _Draft) -> bytes:
    spoilt = [draft.without_value(), draft.but(value="21.5")]
    good = [draft.but(), draft.but(sensor_id=f"{draft.sensor_id}-2")]
    members = [*good, *spoilt]
    draft.rng.shuffle(members)
    return _encoded(members)


def _impossible_timestamp(draft: _Draft) -> bytes:
    next_year = datetime.fromtimestamp(draft.now_ms / 1000, UTC) + timedelta(days=365)
    choices = (next_year.isoformat(), "2026-02-30T10:00:00Z", "yesterday", -1, True)
    return _encoded(draft.but(timestamp=draft.rng.choice(choices)))


_MAKERS: dict[BadKind, Callable[[_Draft], bytes]] = {
    BadKind.NOT_JSON: lambda draft: _encoded(draft.but())[:-9],
    # A degree sign in Latin-1, as old firmware writes it.
    BadKind.NOT_UTF8: lambda draft: json.dumps(
        draft.but(unit="°C"), ensure_ascii=False
    ).encode("latin-1"),
    BadKind.EMPTY: lambda _: b"",
    BadKind.ARRAY_WITH_BAD_MEMBERS: _array_with_bad_members,
    BadKind.MISSING_VALUE: lambda draft: _encoded(draft.without_value()),
    BadKind.VALUE_AS_TEXT: lambda draft: _encoded(
        draft.but(value=draft.rng.choice(("warm", "unavailable", "21.5", "21,5")))
    ),
    BadKind.NAN: lambda draft: _encoded(draft.but(value=float("nan"))),
    BadKind.UNKNOWN_UNIT: lambda draft: _encoded(
        draft.but(unit=draft.rng.choice(("furlong", "°X", "lux")))
    ),
    BadKind.IMPOSSIBLE_TIMESTAMP: _impossible_timestamp,
    BadKind.OVERSIZED: lambda draft: _encoded(draft.but(debug="x" * _OVERSIZED_BYTES)),
}
