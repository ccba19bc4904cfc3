"""Messages that no handler can take: the ten ways devices break a format."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from producers.simulator.sensors import utc_time

#: AMQP header that names what is wrong with a simulated bad message.
LABEL_HEADER = "x-simulated-fault"

#: Kinds of records whose values have a unit.
WITH_UNIT = frozenset({"sensors.temperature", "sensors.humidity"})

#: Twice what the queues take.
_OVERSIZED_BYTES = 2 * 1024 * 1024


class BadKind(StrEnum):
    """What is wrong with a message."""

    NOT_JSON = "not_json"
    NOT_UTF8 = "not_utf8"
    EMPTY = "empty"
    ARRAY_WITH_BAD_MEMBERS = "array_with_bad_members"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
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


class Change(NamedTuple):
    """A value that a field cannot have."""

    field: str
    value: object


@dataclass(frozen=True, slots=True)
class Specimen:
    """Good records of one kind, to be spoilt.

    Attributes:
        exchange: where they go.
        routing_key: as what.
        record: makes one; takes its timestamp, and what its identity ends with.
        required: the field that it cannot do without.
        wrong: values of the wrong type.
        lenient: any number is a time to it, and so is any time to come.
    """

    exchange: str
    routing_key: str
    record: Callable[[object, str], dict[str, object]]
    required: str
    wrong: Sequence[Change]
    lenient: bool = False


class Card(NamedTuple):
    """What is wrong with a message, and what kind of record is in it."""

    kind: BadKind
    domain_kind: str


class Deck:
    """Deals the kinds of bad messages, each once before any comes again, and turns
    to each kind of record equally often.

    But for oversized ones: after the first round only one in twenty has one, or
    a dead-letter queue would soon hold little else.

    Args:
        domain_kinds: the kinds of records.
        rng: shuffles.
    """

    _ROUNDS_PER_OVERSIZED = 20

    def __init__(self, domain_kinds: Collection[str], rng: random.Random) -> None:
        self._domain_kinds = domain_kinds
        self._rng = rng
        self._cards: list[Card] = []
        self._rounds = 0
        self._dealt: Counter[str] = Counter()

    def deal(self) -> Card:
        """The next one."""
        if not self._cards:
            kinds = list(BadKind)
            if self._rounds % self._ROUNDS_PER_OVERSIZED:
                kinds.remove(BadKind.OVERSIZED)
            self._rounds += 1
            # Those with the least choice choose first.
            kinds.sort(key=lambda kind: len(self._candidates(kind)))
            self._cards = [self._card(kind) for kind in kinds if self._candidates(kind)]
            self._rng.shuffle(self._cards)
        return self._cards.pop()

    def _candidates(self, kind: BadKind) -> list[str]:
        """Only what measures something has a unit."""
        if kind is not BadKind.UNKNOWN_UNIT:
            return list(self._domain_kinds)
        return [name for name in self._domain_kinds if name in WITH_UNIT]

    def _card(self, kind: BadKind) -> Card:
        candidates = self._candidates(kind)
        fewest = min(self._dealt[name] for name in candidates)
        name = self._rng.choice(
            [each for each in candidates if self._dealt[each] == fewest]
        )
        self._dealt[name] += 1
        return Card(kind, name)


def bad_body(
    kind: BadKind, specimen: Specimen, now_ms: int, rng: random.Random
) -> bytes:
    """A body of this kind, as a device might send it by mistake."""
    return _MAKERS[kind](_Draft(specimen, now_ms, rng))


class _Draft:
    """A good record, to be spoilt."""

    def __init__(self, specimen: Specimen, now_ms: int, rng: random.Random) -> None:
        self.specimen = specimen
        self.now_ms = now_ms
        self.rng = rng

    def good(self, suffix: str = "", **extra: object) -> dict[str, object]:
        """The record, with other fields besides."""
        return {**self.specimen.record(utc_time(self.now_ms), suffix), **extra}

    def incomplete(self, suffix: str = "") -> dict[str, object]:
        """The record without what it cannot do without."""
        record = self.good(suffix)
        del record[self.specimen.required]
        return record

    def mistyped(self, suffix: str = "") -> dict[str, object]:
        """The record with a value of the wrong type."""
        field, value = self.rng.choice(self.specimen.wrong)
        return {**self.good(suffix), field: value}


def _encoded(record: object) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode()


def _array_with_bad_members(draft: _Draft) -> bytes:
    members = [
        *(draft.good(), draft.good("-2")),
        *(draft.incomplete("-3"), draft.mistyped("-4")),
    ]
    draft.rng.shuffle(members)
    return _encoded(members)


def _impossible_timestamp(draft: _Draft) -> bytes:
    next_year = datetime.fromtimestamp(draft.now_ms / 1000, UTC) + timedelta(days=365)
    choices: list[object] = ["2026-02-30T10:00:00Z", "yesterday"]
    if not draft.specimen.lenient:
        choices += [next_year.isoformat(), -1, True]
    return _encoded(draft.specimen.record(draft.rng.choice(choices), ""))


_MAKERS: dict[BadKind, Callable[[_Draft], bytes]] = {
    BadKind.NOT_JSON: lambda draft: _encoded(draft.good())[:-9],
    # A degree sign in Latin-1, as old firmware writes it.
    BadKind.NOT_UTF8: lambda draft: json.dumps(
        draft.good(note="°C"), ensure_ascii=False
    ).encode("latin-1"),
    BadKind.EMPTY: lambda _: b"",
    BadKind.ARRAY_WITH_BAD_MEMBERS: _array_with_bad_members,
    BadKind.MISSING_FIELD: lambda draft: _encoded(draft.incomplete()),
    BadKind.WRONG_TYPE: lambda draft: _encoded(draft.mistyped()),
    BadKind.NAN: lambda draft: _encoded(draft.good(value=float("nan"))),
    BadKind.UNKNOWN_UNIT: lambda draft: _encoded(
        draft.good(unit=draft.rng.choice(("furlong", "°X", "lux")))
    ),
    BadKind.IMPOSSIBLE_TIMESTAMP: _impossible_timestamp,
    BadKind.OVERSIZED: lambda draft: _encoded(draft.good(debug="x" * _OVERSIZED_BYTES)),
}
