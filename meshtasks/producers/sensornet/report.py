"""The values in one message of a device: every one is accounted for, once.

What the device announced of a value comes first, and then what its format knows. A
value is a reading, or it cannot be read, or it describes the others (a time, a unit,
an address), or it is counted, by reason and name.
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
#: A class for any text of a list, of any kind.
_ANY_CLASS = frozenset({"", "enum"})

#: What is counted: reason and name.
ValueCounts = Counter[tuple[str, str]]


class Reading(NamedTuple):
    """One value: a number, a state, or what happened.

    Attributes:
        name: of the value in its message.
        entity: what the device announced of it.
    """

    value: float | bool | str
    name: str
    meaning: Meaning
    entity: Announced | None

    @property
    def kind(self) -> Kind:
        """What it measures."""
        return KINDS[self.meaning.kind]


@dataclass(slots=True)
class MessageReport:
    """The values of one message.

    Attributes:
        counted: those that are no readings, or have no value.
        faults: those that cannot be read, each with its path.
        described: how many describe others.
    """

    payload: Payload
    readings: list[Reading] = field(default_factory=list)
    counted: ValueCounts = field(default_factory=Counter)
    faults: list[InvalidMessage] = field(default_factory=list)
    described: int = 0

    def take(self, path: Path, raw: object, entity: Announced | None) -> None:
        """Account for one value."""
        payload = self.payload
        name = clip(".".join(path) or payload.name, _LONGEST_NAME_CHARS)
        judged = payload.judge(path, raw)
        if entity is None:
            self._take_judged(name, raw, judged, None)
        elif entity.kind is None and judged is None:
            self.described += 1
        elif entity.template.compute is None:
            computed = judged if isinstance(judged, Meaning) else Passed(COMPUTED)
            self._take_judged(name, raw, computed, None)
        else:
            self._take_announced(name, raw, judged, entity)

    def _take_announced(
        self, name: str, raw: object, judged: Judgement, entity: Announced
    ) -> None:
        kind = entity.kind
        if kind is None and entity.device_class not in _ANY_CLASS:
            self.counted[_CLASS, f"{name} ({clip(entity.device_class, 30)})"] += 1
        elif kind is None or not entity.fits(kind):
            # Nothing known is announced, or what cannot be: kWh of a power.
            if isinstance(judged, Meaning) and entity.fits(KINDS[judged.kind]):
                self._take_judged(name, raw, judged, entity)
            elif kind is None:
                self.counted[UNKNOWN, name] += 1
            else:
                self.counted[UNIT, f"{name} ({clip(entity.unit or '', 30)})"] += 1
        else:
            self._take_known(name, raw, judged, entity, kind)

    def _take_known(
        self, name: str, raw: object, judged: Judgement, entity: Announced, kind: Kind
    ) -> None:
        """A value whose kind is announced; a vendor may know a narrower one."""
        template = entity.template
        meaning = _announced_meaning(entity, kind, judged)
        try:
            value = template.compute(raw) if template.compute else raw
            if entity.state is not None and not is_unavailable(value):
                value = entity.is_on(value) is not entity.state.inverted
        except SchemaMismatch as error:
            if is_unavailable(raw):
                self.counted[UNAVAILABLE, name] += 1
            elif entity.state is not None:
                self.counted[_PAYLOAD, name] += 1
            else:
                self.faults.append(SchemaMismatch(f"{name}: {error}"))
        else:
            self._take_judged(name, value, meaning, entity)

    def _take_judged(
        self, name: str, raw: object, judged: Judgement, entity: Announced | None
    ) -> None:
        if judged is None:
            self.described += 1
        elif isinstance(judged, Passed):
            self.counted[judged.reason, name] += 1
        elif is_unavailable(raw):
            self.counted[UNAVAILABLE, name] += 1
        else:
            if entity and entity.unit:
                judged = judged._replace(usual=entity.unit)
            try:
                value = _value(KINDS[judged.kind], raw, judged)
            except SchemaMismatch as error:
                self.faults.append(SchemaMismatch(f"{name}: {error}"))
                return
            if isinstance(value, Passed):
                self.counted[value.reason, name] += 1
            else:
                self.readings.append(Reading(value, name, judged, entity))


def read(
    payload: Payload, announced: Iterable[tuple[Path, Announced]]
) -> MessageReport:
    """Account for every value of a message, with the entities and the paths that
    they are announced of.

    Raises:
        SchemaMismatch: it has too many values.
    """
    report = MessageReport(payload)
    by_path = _by_path(announced)
    for path, raw in values_of(payload.document):
        report.take(path, raw, by_path.get(path))
    return report


def _by_path(announced: Iterable[tuple[Path, Announced]]) -> dict[Path, Announced]:
    """The best of what is announced of each value: understood, and of a known kind."""
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
    """What a value is of which the kind is announced, and a vendor may know more."""
    meaning = Meaning(kind.name, usual=entity.unit, part=entity.entity)
    if judged is not None:
        has_part = judged.part or isinstance(judged, Meaning)
        part = judged.part if has_part else entity.entity
        meaning = meaning._replace(part=part, stamp=judged.stamp)
    if not entity.template.is_plain:
        return meaning._replace(unit=entity.unit)  # it is the one of what is computed
    if (
        isinstance(judged, Meaning)
        and kind.unit
        and KINDS[judged.kind].unit == kind.unit
    ):
        meaning = meaning._replace(unit=judged.unit, usual=entity.unit or judged.usual)
        if not judged.is_guess and not entity.is_diagnostic:
            meaning = meaning._replace(kind=judged.kind)
    return meaning


def _value(kind: Kind, raw: object, judged: Meaning) -> float | bool | str | Passed:
    """A value of a kind."""
    if kind.form == "number":
        return number_of(raw)
    if kind.form == "event":
        if isinstance(raw, str | int) and not isinstance(raw, bool):
            return clip(str(raw), _LONGEST_EVENT_CHARS)
        return Passed()
    try:
        return state_of(raw, kind.words, inverted=judged.inverted)
    except SchemaMismatch as error:
        try:  # a number of something that is no state, or "not known"
            return Passed(UNAVAILABLE if number_of(raw) == -1 else UNKNOWN)
        except SchemaMismatch:
            raise error from None
