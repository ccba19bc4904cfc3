"""config/alerts.yaml: which receivers get which alerts, and how often.

Conditions for labels have the syntax of Alertmanager's matchers: ``name=value``,
``!=``, ``=~`` and ``!~``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta, tzinfo
from functools import cached_property, lru_cache
from typing import Annotated, Any, NamedTuple, Self
from zoneinfo import ZoneInfo

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    model_validator,
)
from pydantic_core import InitErrorDetails
from typing_extensions import override

from meshtasks.config.durations import Duration, TimeZone
from meshtasks.config.loader import ConfigModel, fault, refuse_all, twice
from meshtasks.config.settings import ConfigFile, Settings
from meshtasks.errors import ConfigError
from meshtasks.records.timestamps import utc_of

_FORM = re.compile(r"\s*([^=!~\s\"]+)\s*(=~|!~|!=|=)\s*(.*?)\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Matcher:
    """A condition for one label. A missing label has the value ``""``.

    Attributes:
        name: name of the label.
        operator: ``=`` equal, ``!=`` not equal, ``=~`` the regular expression matches
            the whole value, ``!~`` it does not.
        value: value or regular expression to compare with.
    """

    name: str
    operator: str
    value: str

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels match the condition."""
        found = labels.get(self.name, "")
        if self.operator.endswith("~"):
            meets = _compiled(self.value).fullmatch(found) is not None
        else:
            meets = found == self.value
        return meets is not self.operator.startswith("!")

    @override
    def __str__(self) -> str:
        value = self.value
        is_quoted = len(value) > 1 and value[0] == value[-1] == '"'
        if is_quoted or value != value.strip():  # parsing would remove quotes or blanks
            value = f'"{value}"'
        return f"{self.name}{self.operator}{value}"


def parse_matcher(text: object) -> Matcher:
    """Parse a matcher; its value may be in double quotes.

    Raises:
        ValueError: the text is not a matcher, or its regular expression is invalid.
    """
    form = _FORM.fullmatch(text) if isinstance(text, str) else None
    if form is None:
        message = (
            "expected a matcher such as severity=critical, location!=attic or "
            f"source=~rules.*, got {text!r}"
        )
        raise ValueError(message)
    name, operator, value = form.groups()
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1]
    if operator.endswith("~"):
        try:
            _compiled(value)
        except re.error as error:
            message = f"{value} is not a regular expression: {error}"
            raise ValueError(message) from error
    return Matcher(name, operator, value)


def all_match(matchers: Iterable[Matcher], labels: Mapping[str, str]) -> bool:
    """Whether the labels match every condition; true if there are none."""
    return all(matcher.matches(labels) for matcher in matchers)


@lru_cache(maxsize=1_024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


#: A matcher as field of a model; in files it is text.
MatcherField = Annotated[Matcher, PlainValidator(parse_matcher), PlainSerializer(str)]


#: Value in ``group_by`` that makes every alert a group of its own.
EACH_ALERT = "..."

_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$", max_length=64)]


def local_time(now: float, zone: tzinfo | None) -> datetime:
    """Epoch seconds as local time; the host's time zone if ``zone`` is None. For times
    outside the calendar see :func:`~meshtasks.records.timestamps.utc_of`."""
    return utc_of(now).astimezone(zone)


def _clock_time(value: Any) -> time:
    # In YAML 1.1 an unquoted 22:00 is the base-60 number 1320.
    if isinstance(value, str):
        try:
            return datetime.strptime(value, "%H:%M").time()  # noqa: DTZ007 - a time of day
        except ValueError:
            pass
    message = f'expected a time of day in quotes such as "22:00", got {value!r}'
    raise ValueError(message)


_ClockTime = Annotated[time, BeforeValidator(_clock_time)]


class QuietHours(ConfigModel):
    """Hours in which only critical alerts are notified.

    Attributes:
        start: first minute; ``from`` in the file.
        end: first minute after them, on the next day if earlier than ``start``; ``to``
            in the file.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    start: Annotated[_ClockTime, Field(alias="from")]
    end: Annotated[_ClockTime, Field(alias="to")]

    @model_validator(mode="after")
    def _is_not_empty(self) -> Self:
        if self.start == self.end:
            raise ValueError("from and to must differ")
        return self

    def end_of(self, now: float, zone: tzinfo | None) -> float | None:
        """End of the quiet hours at ``now``, epoch seconds; None if it is not quiet."""
        here = local_time(now, zone)
        clock = here.time()
        if self.start < self.end:
            quiet = self.start <= clock < self.end
        else:
            quiet = clock >= self.start or clock < self.end
        if not quiet:
            return None
        day = here.date() if clock < self.end else here.date() + timedelta(days=1)
        ends = datetime.combine(day, self.end, tzinfo=zone)
        # the offset at that time, not now: daylight saving time may begin or end before
        return (ends if zone else ends.astimezone()).timestamp()


class GroupKey(NamedTuple):
    """Identity of a group: its route and the labels that its alerts have in common.

    Attributes:
        id: digest of route and labels.
        route: name of the route.
        labels: common labels with their values.
    """

    id: str
    route: str
    labels: dict[str, str]


class Route(ConfigModel):
    """Selects receivers, groups and intervals of the alerts that match.

    Attributes:
        name: name of the route.
        match: conditions for labels, ``severity`` and ``source``; all must match.
        receivers: names of receivers, tried in this order until one accepts the
            notification.
        group_by: labels whose values distinguish the groups of the route.
        group_wait: time to collect a group before its first notification, seconds.
        group_interval: minimum time between two notifications of a group, seconds.
        repeat_interval: time between reminders of an active alert, seconds.
        also_next: whether later routes are tried, too; ``continue`` in the file.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    name: _Name
    match: tuple[MatcherField, ...] = ()
    receivers: Annotated[tuple[str, ...], Field(min_length=1)]
    group_by: tuple[str, ...] = ("source",)
    group_wait: Duration = 30.0
    group_interval: Duration = 300.0
    repeat_interval: Duration = 4 * 3_600.0
    also_next: Annotated[bool, Field(alias="continue")] = False

    @model_validator(mode="after")
    def _repeats_slower_than_it_notifies(self) -> Self:
        if self.repeat_interval < max(self.group_interval, 1.0):
            raise ValueError(
                "repeat_interval must be at least group_interval, and a second"
            )
        return self

    def group_of(self, fingerprint: str, labels: Mapping[str, str]) -> GroupKey:
        """The group of an alert in this route."""
        if EACH_ALERT in self.group_by:
            common = {"fingerprint": fingerprint}
        else:
            common = {name: labels.get(name, "") for name in self.group_by}
        identity = json.dumps([self.name, sorted(common.items())])
        digest = hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()
        return GroupKey(digest, self.name, common)


class Inhibition(ConfigModel):
    """Mutes alerts while a more severe alert with the same labels is active.

    Attributes:
        source: conditions for the alerts that inhibit.
        target: conditions for the alerts that are inhibited.
        equal: labels that both must have, with the same value. Unlike in Alertmanager,
            two missing labels are not equal: the critical alert of a power supply
            without ``sensor_id`` does not mute all alerts without one.
    """

    source: Annotated[tuple[MatcherField, ...], Field(min_length=1)]
    target: Annotated[tuple[MatcherField, ...], Field(min_length=1)]
    equal: Annotated[tuple[str, ...], Field(min_length=1)]

    def inhibits(self, source: Mapping[str, str], target: Mapping[str, str]) -> bool:
        """Whether an active alert inhibits another, by their labels."""
        return (
            all(name in source and name in target for name in self.equal)
            and all(source[name] == target[name] for name in self.equal)
            and all_match(self.target, target)
            and all_match(self.source, source)
            and not all_match(self.source, target)
        )


class Flapping(ConfigModel):
    """When an alert counts as flapping, which is notified once.

    Attributes:
        changes: number of beginnings and ends together.
        within: time in which they happen, seconds.
    """

    changes: Annotated[int, Field(ge=2, le=50)] = 6
    within: Duration = 900.0


class TemplateTexts(ConfigModel):
    """Jinja2 templates that replace the built-in ones."""

    title: str | None = None
    body: str | None = None
    priority: str | None = None
    tags: str | None = None


class AlertPolicy(ConfigModel):
    """config/alerts.yaml.

    Attributes:
        time_zone: time zone of quiet hours and of times in texts; None for the host's.
        resolve_timeout: time without an update after which an alert is resolved,
            seconds.
        receivers: names of receivers; their URLs are secrets of the environment.
        routes: the first that matches is used; the last must match every alert.
        inhibit: rules by which alerts mute others.
        quiet_hours: hours in which only critical alerts are notified; None for none.
        flapping: when an alert counts as flapping.
        templates: templates that replace the built-in ones.
    """

    time_zone: TimeZone | None = None
    resolve_timeout: Annotated[Duration, Field(ge=60)] = 7 * 86_400.0
    receivers: tuple[
        Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)], ...
    ] = ()
    routes: Annotated[tuple[Route, ...], Field(min_length=1)]
    inhibit: tuple[Inhibition, ...] = ()
    quiet_hours: QuietHours | None = None
    flapping: Flapping = Flapping()
    templates: TemplateTexts = TemplateTexts()

    @model_validator(mode="before")
    @classmethod
    def _apply_defaults(cls, data: Any) -> Any:
        """Use ``defaults`` for the keys that a route does not set."""
        if not isinstance(data, dict) or not isinstance(data.get("defaults"), dict):
            return data
        routes = data.get("routes")
        if not isinstance(routes, list):
            return data
        defaults = data["defaults"]
        merged = [{**defaults, **r} if isinstance(r, dict) else r for r in routes]
        rest = {name: value for name, value in data.items() if name != "defaults"}
        return {**rest, "routes": merged}

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        refuse_all(type(self).__name__, self._faults())
        return self

    def _faults(self) -> Iterator[InitErrorDetails]:
        yield from twice((route.name for route in self.routes), "route", "routes")
        for index, name in enumerate(self.receivers):
            if name.endswith("_file"):
                reason = f"receiver {name}: a name must not end in _file"
                yield fault(reason, "receivers", index)
        for index, route in enumerate(self.routes):
            if missing := sorted(set(route.receivers) - set(self.receivers)):
                reason = (
                    f"route {route.name}: {', '.join(missing)} must be declared under "
                    "receivers"
                )
                yield fault(reason, "routes", index, "receivers")
        last = self.routes[-1]
        if last.match or last.also_next:
            reason = (
                f"route {last.name}: the last route must match every alert, without "
                "match and continue, so that none is left out"
            )
            yield fault(reason, "routes", len(self.routes) - 1)

    @cached_property
    def zone(self) -> ZoneInfo | None:
        """The time zone; None for the host's."""
        return ZoneInfo(self.time_zone) if self.time_zone else None

    @cached_property
    def by_name(self) -> dict[str, Route]:
        """The routes by name."""
        return {route.name: route for route in self.routes}

    @cached_property
    def digest(self) -> str:
        """A digest that changes if alerts may belong to other groups than before."""
        shape = [
            [route.name, list(map(str, route.match)), route.group_by, route.also_next]
            for route in self.routes
        ]
        text = json.dumps(shape).encode()
        return hashlib.blake2b(text, digest_size=8).hexdigest()

    def groups_of(self, fingerprint: str, labels: Mapping[str, str]) -> list[GroupKey]:
        """The groups of an alert, one per matching route. ``labels`` include
        ``severity`` and ``source``."""
        groups = []
        for route in self.routes:
            if all_match(route.match, labels):
                groups.append(route.group_of(fingerprint, labels))
                if not route.also_next:
                    break
        return groups

    def may_be_inhibited(self, labels: Mapping[str, str]) -> bool:
        """Whether an active alert could inhibit an alert with these labels."""
        return any(all_match(rule.target, labels) for rule in self.inhibit)

    def may_inhibit(self, labels: Mapping[str, str]) -> bool:
        """Whether an alert with these labels inhibits others while it is active."""
        return any(all_match(rule.source, labels) for rule in self.inhibit)


def _check(policy: AlertPolicy, settings: Settings) -> Iterator[ConfigError]:
    expected = f"a receiver that {settings.path(ALERTS)} declares under receivers"
    for name in settings.env.receivers:
        if name not in policy.receivers:
            variable = f"MESH_RECEIVERS__{name.upper()}"
            yield ConfigError("environment", variable, expected)
    if policy.templates == TemplateTexts():  # the built-in ones need no check
        return
    # loads jinja2, and the templates need the policy's models
    from meshtasks.flows.alerts.rendering import (  # noqa: PLC0415
        BadTemplate,
        renderer_of,
    )

    try:
        renderer_of(policy.templates)
    except BadTemplate as error:
        yield settings.fault(ALERTS, f"templates.{error.name}", error.reason)


ALERTS = ConfigFile("alerts.yaml", AlertPolicy, _check)
