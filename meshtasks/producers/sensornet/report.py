"""Classifies every value in one message of a device, each once.

A device's announcement has priority over its format. A value is a reading, or cannot be
read, or describes other values (a time, a unit, an address), or is counted by reason
and name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from meshtasks.errors import InvalidMessage, SchemaMismatch
from meshtasks.producers.sensornet.discovery import Announced
from meshtasks.producers.sensornet.kinds import KINDS, Kind
from meshtasks.producers.sensornet.payload import (
    COMPUTED,
    UNAVAILABLE,
    UNKNOWN,
    Judgement,
    Meaning,
    Passed,
    Path,
    Payload,
    is_unavailable,
    number_of,
    state_of,
    values_of,
)
from meshtasks.text import clip

_CLASS = "announced class not stored"
_PAYLOAD = "neither payload_on nor payload_off"
UNIT = "unit unknown"

_LONGEST_NAME_CHARS = 80
_LONGEST_EVENT_CHARS = 200
#: Device classes of entities whose kind can be any: no class, or a text of a list.
_ANY_CLASS = frozenset({"", "enum"})

#: Counts by reason and name of the value.
ValueCounts = Counter[tuple[str, str]]


class Reading(NamedTuple):
    """One value: a number, a state or an event.

    Attributes:
        name: of the value in its message.
        meaning: kind, unit and part of the value.
        entity: the announced entity, if there is one.
    """

    value: float | bool | str
    name: str
    meaning: Meaning
    entity: Announced | None

    @property
    def kind(self) -> Kind:
        """Kind of the reading."""
        return KINDS[self.meaning.kind]


@dataclass(slots=True)
class MessageReport:
    """The classified values of one message.

    Attributes:
        counted: values that are not readings, or have no value.
        faults: errors of the values that cannot be read, with their names.
        described: number of values that describe others.
    """

    payload: Payload
    readings: list[Reading] = field(default_factory=list)
    counted: ValueCounts = field(default_factory=Counter)
    faults: list[InvalidMessage] = field(default_factory=list)
    described: int = 0

    def take(self, path: Path, raw: object, entity: Announced | None) -> None:
        """Classify one value."""
        name = clip(".".join(path) or self.payload.name, _LONGEST_NAME_CHARS)
        judged = self.payload.judge(path, raw)
        try:
            if entity is not None:
                raw, judged, entity = _as_announced(raw, judged, entity)
            if isinstance(judged, Meaning):
                value = _value(raw, judged)
                if not isinstance(value, Passed):
                    self.readings.append(Reading(value, name, judged, entity))
                    return
                judged = value
        except SchemaMismatch as error:
            self.faults.append(SchemaMismatch(f"{name}: {error}"))
            return
        if judged is None:
            self.described += 1
        else:
            shown = f"{name} ({clip(judged.detail, 30)})" if judged.detail else name
            self.counted[judged.reason, shown] += 1


def _as_announced(
    raw: object, judged: Judgement, entity: Announced
) -> tuple[object, Judgement, Announced | None]:
    """Apply an announcement to a value.

    Returns:
        The value computed by the template; its classification, in which a format may
        have a narrower kind than the announcement; and the entity if it applies.
    """
    kind, template = entity.kind, entity.template
    if kind is None and judged is None:
        return raw, None, None
    if template.compute is None:
        return raw, judged if isinstance(judged, Meaning) else Passed(COMPUTED), None
    if kind is None or not entity.fits(kind):
        return raw, _without_kind(entity, judged), entity
    try:
        value = template.compute(raw)
        if entity.state is not None and not is_unavailable(value):
            value = entity.is_on(value) is not entity.state.inverted
    except SchemaMismatch:
        if entity.state is None and not is_unavailable(raw):
            raise
        return raw, Passed(UNAVAILABLE if is_unavailable(raw) else _PAYLOAD), entity
    return value, _announced_meaning(entity, kind, judged), entity


def _without_kind(entity: Announced, judged: Judgement) -> Judgement:
    """Classify a value whose announced class is unknown, or contradicts the unit, such
    as a power in kWh."""
    if entity.kind is None and entity.device_class not in _ANY_CLASS:
        return Passed(_CLASS, detail=entity.device_class)
    if isinstance(judged, Meaning) and entity.fits(KINDS[judged.kind]):
        return judged._replace(usual=entity.unit or judged.usual)
    if entity.kind is None:
        return Passed()
    return Passed(UNIT, detail=entity.unit or "")


def read(
    payload: Payload, announced: Iterable[tuple[Path, Announced]]
) -> MessageReport:
    """Classify every value of a message.

    Args:
        announced: entities, each with the path of the part of the document to which
            its template applies.

    Raises:
        SchemaMismatch: the message has too many values.
    """
    report = MessageReport(payload)
    by_path = _by_path(announced)
    for path, raw in values_of(payload.document):
        report.take(path, raw, by_path.get(path))
    return report


def _by_path(announced: Iterable[tuple[Path, Announced]]) -> dict[Path, Announced]:
    """Return each value's entity, preferring understood templates and known kinds."""
    found: dict[Path, Announced] = {}
    for prefix, entity in announced:
        for steps in entity.template.paths:
            path = (*prefix, *steps)
            old = found.get(path)
            if old is None or _worth(entity) > _worth(old):
                found[path] = entity
    return found


def _worth(entity: Announced) -> tuple[bool, bool]:
    return entity.template.compute is not None, entity.kind is not None


def _announced_meaning(entity: Announced, kind: Kind, judged: Judgement) -> Meaning:
    """Return the meaning of an announced value, refined by its format."""
    meaning = Meaning(kind.name, usual=entity.unit, part=entity.entity)
    if judged is not None:
        has_part = judged.part or isinstance(judged, Meaning)
        part = judged.part if has_part else entity.entity
        meaning = meaning._replace(part=part, stamp=judged.stamp)
    if not entity.template.is_plain:
        return meaning._replace(unit=entity.unit)  # the unit of the computed value
    if (
        isinstance(judged, Meaning)
        and kind.unit
        and KINDS[judged.kind].unit == kind.unit
    ):
        meaning = meaning._replace(unit=judged.unit, usual=entity.unit or judged.usual)
        if not judged.is_guess and not entity.is_diagnostic:
            meaning = meaning._replace(kind=judged.kind)
    return meaning


def _value(raw: object, judged: Meaning) -> float | bool | str | Passed:
    """Return a value in the form of its kind."""
    if is_unavailable(raw):
        return Passed(UNAVAILABLE)
    kind = KINDS[judged.kind]
    if kind.form == "number":
        return number_of(raw)
    if kind.form == "event":
        if isinstance(raw, str | int) and not isinstance(raw, bool):
            return clip(str(raw), _LONGEST_EVENT_CHARS)
        return Passed()
    try:
        return state_of(raw, kind.words, inverted=judged.inverted)
    except SchemaMismatch as error:
        try:  # a number that is not a state, or -1 for "not known"
            return Passed(UNAVAILABLE if number_of(raw) == -1 else UNKNOWN)
        except SchemaMismatch:
            raise error from None
