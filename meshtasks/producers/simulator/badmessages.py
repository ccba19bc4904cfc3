"""Bad messages: ten ways in which devices break a format.

They are made from good records of every kind that the mesh accepts. Their ids end in
``broken``, so they never equal a good record of the house.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from meshtasks.producers.simulator import devices
from meshtasks.producers.simulator.sensors import SENSORS, motion_record, utc_time

#: AMQP header with the kind of a bad message.
LABEL_HEADER = "x-simulated-fault"

#: Kinds of records whose values have a unit.
_WITH_UNIT = frozenset({"sensors.temperature", "sensors.humidity"})
#: Twice the limit of the queues.
_OVERSIZED_BYTES = 2 * 1024 * 1024
_BROKEN = "broken"


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
        """Number of records in such a message that become dead letters."""
        return 2 if self is BadKind.ARRAY_WITH_BAD_MEMBERS else 1

    @property
    def good_records(self) -> int:
        """Number of records in such a message that are stored."""
        return 2 if self is BadKind.ARRAY_WITH_BAD_MEMBERS else 0


@dataclass(frozen=True, slots=True)
class Specimen:
    """How to make good records of one kind, and how to make them bad.

    Attributes:
        exchange: of the messages.
        routing_key: of the messages.
        record: makes a good record from its timestamp and a suffix of its id.
        required: a required field.
        wrong: fields with values of a wrong type.
        lenient: whether any number and any future time is a valid timestamp.
    """

    exchange: str
    routing_key: str
    record: Callable[[object, str], dict[str, object]]
    required: str
    wrong: Sequence[tuple[str, object]]
    lenient: bool = False


class Deck:
    """Chooses the bad messages: each kind of fault once per round, in random order.

    Every kind of record is used equally often. Oversized messages occur in the first
    round, and then in one of twenty, because they would fill the dead-letter queue.

    Args:
        domain_kinds: kinds of records, as in :data:`SPECIMENS`.
        rng: source of the order.
    """

    _ROUNDS_PER_OVERSIZED = 20

    def __init__(self, domain_kinds: Collection[str], rng: random.Random) -> None:
        self._domain_kinds = domain_kinds
        self._rng = rng
        self._cards: list[tuple[BadKind, str]] = []
        self._rounds = 0
        self._dealt: Counter[str] = Counter()

    def deal(self) -> tuple[BadKind, str]:
        """Return the next kind of fault, and the kind of record to apply it to."""
        if not self._cards:
            kinds = list(BadKind)
            if self._rounds % self._ROUNDS_PER_OVERSIZED:
                kinds.remove(BadKind.OVERSIZED)
            self._rounds += 1
            # Kinds that suit the fewest records choose first.
            kinds.sort(key=lambda kind: len(self._candidates(kind)))
            self._cards = [self._card(kind) for kind in kinds if self._candidates(kind)]
            self._rng.shuffle(self._cards)
        return self._cards.pop()

    def _candidates(self, kind: BadKind) -> list[str]:
        """Return the kinds of records that can have this fault."""
        if kind is not BadKind.UNKNOWN_UNIT:
            return list(self._domain_kinds)
        return [name for name in self._domain_kinds if name in _WITH_UNIT]

    def _card(self, kind: BadKind) -> tuple[BadKind, str]:
        candidates = self._candidates(kind)
        fewest = min(self._dealt[name] for name in candidates)
        name = self._rng.choice(
            [each for each in candidates if self._dealt[each] == fewest]
        )
        self._dealt[name] += 1
        return kind, name


def bad_body(
    kind: BadKind, specimen: Specimen, now_ms: int, rng: random.Random
) -> bytes:
    """Return a body with this fault, as a device might send it by mistake."""
    now = utc_time(now_ms)

    def good(suffix: str = "", **extra: object) -> dict[str, object]:
        return {**specimen.record(now, suffix), **extra}

    def incomplete(suffix: str = "") -> dict[str, object]:
        record = good(suffix)
        del record[specimen.required]
        return record

    def mistyped(suffix: str = "") -> dict[str, object]:
        field, value = rng.choice(specimen.wrong)
        return {**good(suffix), field: value}

    def impossible_timestamp() -> bytes:
        choices: list[object] = ["2026-02-30T10:00:00Z", "yesterday"]
        if not specimen.lenient:
            next_year = datetime.fromtimestamp(now_ms / 1000, UTC) + timedelta(days=365)
            choices += [next_year.isoformat(), -1, True]
        return _encoded(specimen.record(rng.choice(choices), ""))

    def array_with_bad_members() -> bytes:
        members = [good(), good("-2"), incomplete("-3"), mistyped("-4")]
        rng.shuffle(members)
        return _encoded(members)

    makers: dict[BadKind, Callable[[], bytes]] = {
        BadKind.NOT_JSON: lambda: _encoded(good())[:-9],
        # The degree sign in Latin-1, as old firmware sends it.
        BadKind.NOT_UTF8: lambda: _encoded(good(note="°C"), "latin-1"),
        BadKind.EMPTY: lambda: b"",
        BadKind.ARRAY_WITH_BAD_MEMBERS: array_with_bad_members,
        BadKind.MISSING_FIELD: lambda: _encoded(incomplete()),
        BadKind.WRONG_TYPE: lambda: _encoded(mistyped()),
        BadKind.NAN: lambda: _encoded(good(value=float("nan"))),
        BadKind.UNKNOWN_UNIT: lambda: _encoded(
            good(unit=rng.choice(("furlong", "°X", "lux")))
        ),
        BadKind.IMPOSSIBLE_TIMESTAMP: impossible_timestamp,
        BadKind.OVERSIZED: lambda: _encoded(good(debug="x" * _OVERSIZED_BYTES)),
    }
    return makers[kind]()


def _encoded(record: object, encoding: str = "utf-8") -> bytes:
    return json.dumps(record, ensure_ascii=False).encode(encoding)


def _reading(kind: str, room: str, rng: random.Random) -> Specimen:
    def record(timestamp: object, suffix: str) -> dict[str, object]:
        return {
            "sensor_id": f"{room}-{kind}-{_BROKEN}{suffix}",
            "value": round(rng.uniform(18.0, 24.0), 2),
            "timestamp": timestamp,
        }

    wrong = [("value", text) for text in ("warm", "unavailable", "21.5", "21,5")]
    return Specimen(SENSORS, f"sensors.{kind}.{room}", record, "value", wrong)


def _motion(room: str, _rng: random.Random) -> Specimen:
    def record(timestamp: object, suffix: str) -> dict[str, object]:
        return motion_record(room, f"{room}-{_BROKEN}{suffix}", timestamp)

    wrong = [("motion", "on"), ("motion", 1), ("sensor_id", 7)]
    return Specimen(SENSORS, f"sensors.motion.{room}", record, "motion", wrong)


def _state_change(room: str, rng: random.Random) -> Specimen:
    entity_id = f"light.{room}_{_BROKEN}"

    def record(timestamp: object, suffix: str) -> dict[str, object]:
        name = entity_id + suffix.replace("-", "_")
        context = f"{rng.getrandbits(80):020x}"
        thing = devices.Thing(name, ("on",))
        state = devices.state_object(thing, "on", context, timestamp)
        return {"entity_id": name, "old_state": None, "new_state": state}

    wrong = [("new_state", "on"), ("entity_id", 7), ("old_state", [])]
    key = f"home.{entity_id}.state_changed"
    return Specimen(devices.HOME_EVENTS, key, record, "entity_id", wrong)


def _automation(room: str, _rng: random.Random) -> Specimen:
    name = f"{room}_{_BROKEN}"

    def record(timestamp: object, suffix: str) -> dict[str, object]:
        return devices.trigger_record(name + suffix, "time pattern", timestamp)

    wrong = [("automation", 7), ("automation", "")]
    key = f"home.automation.{name}.trigger"
    return Specimen(devices.HOME_EVENTS, key, record, "automation", wrong)


def _metric(key: str, tag: str) -> Specimen:
    def record(timestamp: object, suffix: str) -> dict[str, object]:
        tags = {tag: _BROKEN + suffix}
        return devices.metric_record("uptime", {"seconds": 86_400.0}, tags, timestamp)

    wrong = [("name", 7), ("fields", [1.0]), ("tags", "nas")]
    return Specimen(devices.METRICS, f"{key}.{_BROKEN}", record, "name", wrong)


def _request(room: str, rng: random.Random) -> Specimen:
    number = rng.getrandbits(32)

    def record(timestamp: object, suffix: str) -> dict[str, object]:
        window = [20.0] * devices.WINDOW_READINGS
        sensor_id = f"{room}-{_BROKEN}{suffix}"
        return devices.request_record(sensor_id, room, window, number, timestamp)

    wrong = [("inputs", "20.0 °C"), ("inputs", []), ("version", "x")]
    key = f"ai.model.{devices.MODEL}"
    return Specimen(devices.AI, key, record, "inputs", wrong)


def _result(room: str, rng: random.Random) -> Specimen:
    model, number = f"{room}-{_BROKEN}", rng.getrandbits(32)

    def record(timestamp: object, suffix: str) -> dict[str, object]:
        result = devices.result_record(0.5, number, timestamp)
        return {**result, "model": model + suffix}

    wrong = [("request_id", 7), ("latency_ms", "fast")]
    return Specimen(devices.AI, f"ai.result.{model}", record, "request_id", wrong)


def _alert(room: str, _rng: random.Random) -> Specimen:
    warned = devices.Warned("info", _BROKEN, "{} is broken", "Look at the {}.")

    def record(timestamp: object, suffix: str) -> dict[str, object]:
        return devices.alert_record(warned, room + suffix, timestamp)

    wrong = [("severity", "bad"), ("labels", [room]), ("title", "")]
    key = warned.routing_key
    return Specimen(devices.ALERTS, key, record, "severity", wrong, lenient=True)


#: Kind of record → makes its specimen for a room.
SPECIMENS: Mapping[str, Callable[[str, random.Random], Specimen]] = {
    "sensors.temperature": lambda room, rng: _reading("temperature", room, rng),
    "sensors.humidity": lambda room, rng: _reading("humidity", room, rng),
    "sensors.motion": _motion,
    "home.events.state_changes": _state_change,
    "home.events.automations": _automation,
    "metrics.system": lambda _room, _rng: _metric("metrics.system", "host"),
    "metrics.application": lambda _room, _rng: _metric(
        "metrics.application", "service"
    ),
    "ai.inference.requests": _request,
    "ai.inference.results": _result,
    "alerts": _alert,
}

#: Kinds that are not the first two words of their routing keys: first word, index and
#: text of another word, kind.
_KINDS_BY_WORD = (
    ("home", -1, "state_changed", "home.events.state_changes"),
    ("home", -1, "trigger", "home.events.automations"),
    ("ai", 1, "model", "ai.inference.requests"),
    ("ai", 1, "result", "ai.inference.results"),
)


def domain_kind_of(routing_key: str) -> str:
    """Return the kind that a message is counted as.

    It is the name of the queue, except for alerts, which go to two queues: they count
    as ``alerts``.
    """
    words = routing_key.split(".")
    if words[0] == "alerts":
        return "alerts"
    for domain, index, word, kind in _KINDS_BY_WORD:
        if words[0] == domain and words[index] == word:
            return kind
    return ".".join(words[:2])
