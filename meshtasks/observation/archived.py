"""What the archive holds by day, and whether it is sound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial
from itertools import islice

from meshtasks.flows.archive.objects import ObjectStore
from meshtasks.flows.archive.reading import Checked, Found, Period, check, objects_in

#: Small objects cost a round trip each, and several can be under way.
_READS_AT_ONCE = 8


@dataclass(slots=True)
class ArchivedDay:
    """What is archived of one domain and UTC date.

    Attributes:
        objects: how many.
        size_bytes: as stored.
        hours: UTC hours that have an object.
        names: of the objects.
    """

    objects: int = 0
    size_bytes: int = 0
    hours: set[int] = field(default_factory=set)
    names: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Calendar:
    """What is archived, by UTC date and domain; a date without anything is not there.

    Attributes:
        days: in order.
        foreign: objects whose names the mesh does not give.
    """

    days: Mapping[date, Mapping[str, ArchivedDay]]
    foreign: int

    def gaps(self) -> list[date]:
        """The dates between the first and the last that have nothing."""
        dates = list(self.days)
        if not dates:
            return []
        whole = range((dates[-1] - dates[0]).days)
        every = (dates[0] + timedelta(days=number) for number in whole)
        return [each for each in every if each not in self.days]


def calendar_of(
    store: ObjectStore, period: Period, domains: Collection[str]
) -> Calendar:
    """Look what is archived.

    Args:
        period: whose hours.
        domains: of these; of all if there are none.

    Raises:
        SinkUnavailable: the store cannot be read.
    """
    days: dict[date, dict[str, ArchivedDay]] = {}
    foreign = 0
    for found in objects_in(store, period, domains):
        if found.parsed is None:
            foreign += 1
            continue
        of_day = days.setdefault(found.parsed.day, {})
        day = of_day.setdefault(found.parsed.domain, ArchivedDay())
        day.objects += 1
        day.size_bytes += found.info.size_bytes
        day.hours.add(found.parsed.hour.hour)
        day.names.append(found.info.name)
    ordered = {each: dict(sorted(days[each].items())) for each in sorted(days)}
    return Calendar(ordered, foreign)


def checked(
    store: ObjectStore, objects: Iterable[Found]
) -> Generator[tuple[Found, Checked]]:
    """Look into objects, in their order; several at once. Whoever takes no more of them
    closes it.

    Raises:
        SinkUnavailable: the store cannot be read.
    """
    waiting = iter(objects)
    with ThreadPoolExecutor(_READS_AT_ONCE, thread_name_prefix="verify") as reading:
        while group := list(islice(waiting, 4 * _READS_AT_ONCE)):
            names = [found.info.name for found in group]
            checks = reading.map(partial(check, store), names)
            yield from zip(group, checks, strict=True)


@dataclass(slots=True)
class Verified:
    """What was found by looking into objects.

    Attributes:
        objects: that were looked at.
        size_bytes: of all of them.
        records: in all of them, by the object's name.
        faults: what is wrong with objects, by name.
    """

    objects: int = 0
    size_bytes: int = 0
    records: Counter[str] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)

    def add(self, found: Found, checked: Checked) -> None:
        """Note one."""
        self.objects += 1
        self.size_bytes += found.info.size_bytes
        self.records[found.info.name] = checked.records
        if checked.fault:
            self.faults[found.info.name] = checked.fault

    @property
    def summary(self) -> str:
        """All of it as a line."""
        return (
            f"{self.objects:,} objects, {self.records.total():,} records, "
            f"{self.size_bytes / 1e6:.2f} MB: "
            + (f"{len(self.faults):,} DAMAGED" if self.faults else "all sound")
        )
