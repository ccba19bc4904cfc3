"""What one message of a device says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from meshtasks.domain.errors import InvalidMessage, SchemaMismatch
from producers.sensornet.kinds import KINDS, Kind
from producers.sensornet.payload import is_unavailable, number_of, state_of


class Ignored(NamedTuple):
    """A message that holds no reading, by its nature.

    Attributes:
        reason: in a word or two, the same for all of its sort: it is counted.
    """

    reason: str


class Reading(NamedTuple):
    """One value.

    Attributes:
        kind: what it is a value of.
        value: a number in ``unit``, or a state.
        unit: as the device says it; None when it does not.
        part: which of the device's sensors; empty when it has one of the kind.
    """

    kind: Kind
    value: float | bool
    unit: str | None = None
    part: str = ""


class LocalTime(NamedTuple):
    """A clock's reading without a zone: ``2019-01-01T00:00:00``."""

    text: str


@dataclass(slots=True)
class Report:
    """The readings of one message; filled by :meth:`add`.

    Attributes:
        device: which device, in the levels of its topic: ``kitchen/floor_lamp``.
        stamp: when it measured, in its own words: RFC 3339 text, epoch seconds or
            milliseconds, or a :class:`LocalTime`; None when it does not say.
        readings: the good ones.
        unavailable: how many values it says it does not have.
        faults: the values that cannot be read, each with its place.
    """

    device: str
    stamp: object = None
    readings: list[Reading] = field(default_factory=list)
    unavailable: int = 0
    faults: list[InvalidMessage] = field(default_factory=list)

    def add(
        self,
        kind: str,
        raw: object,
        place: str,
        *,
        unit: str | None = None,
        part: str = "",
        inverted: bool = False,
    ) -> None:
        """Take one value in.

        Args:
            kind: its name.
            raw: as it was sent.
            place: where it stands in the message, for an error's text.
            unit: as the device says it.
            part: see :class:`Reading`.
            inverted: of a state, when the device says the opposite of the kind.
        """
        if is_unavailable(raw):
            self.unavailable += 1
            return
        known = KINDS[kind]
        try:
            if known.is_state:
                value: float | bool = state_of(raw) is not inverted
            else:
                value = number_of(raw)
        except SchemaMismatch as error:
            self.faults.append(SchemaMismatch(f"{place}: {error}"))
        else:
            self.readings.append(Reading(known, value, unit, part))
