"""config/alerts.yaml: who is told of which alert, and how often."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, NamedTuple, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_core import InitErrorDetails

from meshtasks.config.durations import Duration
from meshtasks.config.faults import fault, refuse_all, twice
from meshtasks.config.settings import ConfigFile, Settings
from meshtasks.errors import ConfigError
from meshtasks.flows.alerts.matchers import MatcherField, all_match
from meshtasks.flows.alerts.quiet import QuietHours

#: In ``group_by``: every alert is a group of its own.
EACH = "..."

_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$", max_length=64)]


class GroupKey(NamedTuple):
    """What a group of alerts has in common.

    Attributes:
        id: 16 hex digits of BLAKE2b over route and labels.
        route: name of its route.
        labels: the labels it is grouped by, with their values.
    """

    id: str
    route: str
    labels: dict[str, str]


class Route(BaseModel):
    """Where the alerts go that match, and how they are gathered.

    Attributes:
        match: conditions on labels, ``severity`` and ``source``; all must hold.
        receivers: tried in this order until one takes the notification.
        group_by: labels whose values tell the groups of the route apart.
        group_wait: seconds to gather a group before it is first told.
        group_interval: least seconds between two notifications of a group.
        repeat_interval: seconds after which an alert that goes on is told again.
        also_next: later routes are looked at too, ``continue`` in the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    name: _Name
    match: tuple[MatcherField, ...] = ()
    receivers: Annotated[tuple[str, ...], Field(min_length=1)]
    group_by: tuple[str, ...] = ("source",)
    group_wait: Duration = 30.0
    group_interval: Duration = 300.0
    repeat_interval: Duration = 4 * 3_600.0
    also_next: Annotated[bool, Field(alias="continue")] = False

    @model_validator(mode="after")
    def _repeats_slower_than_it_tells(self) -> Self:
        if self.repeat_interval < max(self.group_interval, 1.0):
            message = "repeat_interval must be at least group_interval, and a second"
            raise ValueError(message)
        return self

    def group_of(self, fingerprint: str, labels: Mapping[str, str]) -> GroupKey:
        """The group of this route that an alert belongs to."""
        if EACH in self.group_by:
            common = {"fingerprint": fingerprint}
        else:
            common = {name: labels.get(name, "") for name in self.group_by}
        identity = json.dumps([self.name, sorted(common.items())])
        digest = hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()
        return GroupKey(digest, self.name, common)


class Inhibition(BaseModel):
    """Alerts that need not be told while a graver one says the same.

    Attributes:
        source: matches the alerts that inhibit.
        target: matches the alerts that are inhibited.
        equal: labels that both must have, with the same value. (Alertmanager takes
            two missing labels for equal; here the critical alert of a power supply
            without ``sensor_id`` does not silence all that have none.)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Annotated[tuple[MatcherField, ...], Field(min_length=1)]
    target: Annotated[tuple[MatcherField, ...], Field(min_length=1)]
    equal: Annotated[tuple[str, ...], Field(min_length=1)]

    def inhibits(self, source: Mapping[str, str], target: Mapping[str, str]) -> bool:
        """Whether one firing alert inhibits another, by their labels."""
        return (
            all(name in source and name in target for name in self.equal)
            and all(source[name] == target[name] for name in self.equal)
            and all_match(self.target, target)
            and all_match(self.source, source)
            and not all_match(self.source, target)
        )


class Flapping(BaseModel):
    """When an alert that comes and goes is told as flapping, once.

    Attributes:
        changes: beginnings and ends together, …
        within: … in so many seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    changes: Annotated[int, Field(ge=2, le=50)] = 6
    within: Duration = 900.0


class Texts(BaseModel):
    """Jinja2 templates that take the place of the built-in ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str | None = None
    body: str | None = None
    priority: str | None = None
    tags: str | None = None


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        message = f"expected a time zone such as Europe/Berlin, got {name!r}"
        raise ValueError(message) from error
    return name


class AlertPolicy(BaseModel):
    """config/alerts.yaml.

    Attributes:
        time_zone: of the quiet hours and of times in texts; the host's when None.
        resolve_timeout: seconds without news after which an alert counts as over.
        receivers: their names; the URLs are secrets of the environment.
        routes: the first that matches counts; the last one matches everything.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    time_zone: Annotated[str, AfterValidator(_known_zone)] | None = None
    resolve_timeout: Annotated[Duration, Field(ge=60)] = 7 * 86_400.0
    receivers: tuple[
        Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)], ...
    ] = ()
    routes: Annotated[tuple[Route, ...], Field(min_length=1)]
    inhibit: tuple[Inhibition, ...] = ()
    quiet_hours: QuietHours | None = None
    flapping: Flapping = Flapping()
    templates: Texts = Texts()

    @model_validator(mode="before")
    @classmethod
    def _apply_defaults(cls, data: Any) -> Any:
        """``defaults`` stand in every route that does not say otherwise."""
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
    def _is_whole(self) -> Self:
        refuse_all(type(self).__name__, self._faults())
        return self

    def _faults(self) -> Iterator[InitErrorDetails]:
        yield from twice((route.name for route in self.routes), "route", "routes")
        for place, name in enumerate(self.receivers):
            if name.endswith("_file"):
                reason = f"receiver {name}: a name must not end in _file"
                yield fault(reason, "receivers", place)
        for place, route in enumerate(self.routes):
            if missing := sorted(set(route.receivers) - set(self.receivers)):
                reason = (
                    f"route {route.name}: {', '.join(missing)} must be declared under "
                    "receivers"
                )
                yield fault(reason, "routes", place, "receivers")
        last = self.routes[-1]
        if last.match or last.also_next:
            reason = (
                f"route {last.name}: the last route must match every alert, without "
                "match and continue, so that none is left out"
            )
            yield fault(reason, "routes", len(self.routes) - 1)

    @cached_property
    def zone(self) -> ZoneInfo | None:
        """The time zone; None stands for the host's own."""
        return ZoneInfo(self.time_zone) if self.time_zone else None

    @cached_property
    def by_name(self) -> dict[str, Route]:
        """The routes by name."""
        return {route.name: route for route in self.routes}

    @cached_property
    def digest(self) -> str:
        """Changes when alerts may belong to other groups than before."""
        shape = [
            [route.name, list(map(str, route.match)), route.group_by, route.also_next]
            for route in self.routes
        ]
        said = json.dumps(shape)
        return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()

    def groups_of(self, fingerprint: str, labels: Mapping[str, str]) -> list[GroupKey]:
        """The groups that an alert belongs to: one per route that takes it.

        Args:
            labels: its labels, ``severity`` and ``source`` included.
        """
        groups = []
        for route in self.routes:
            if all_match(route.match, labels):
                groups.append(route.group_of(fingerprint, labels))
                if not route.also_next:
                    break
        return groups

    def may_be_inhibited(self, labels: Mapping[str, str]) -> bool:
        """Whether another alert, while it fires, could inhibit an alert."""
        return any(all_match(rule.target, labels) for rule in self.inhibit)

    def may_inhibit(self, labels: Mapping[str, str]) -> bool:
        """Whether an alert inhibits others while it fires."""
        return any(all_match(rule.source, labels) for rule in self.inhibit)


def _check(policy: AlertPolicy, settings: Settings) -> Iterator[ConfigError]:
    # loads jinja2, and the templates need the policy's models
    from meshtasks.flows.alerts.templates import (  # noqa: PLC0415
        BadTemplate,
        renderer_of,
    )

    expected = f"a receiver that {settings.path(ALERTS)} declares under receivers"
    for name in settings.env.receivers:
        if name not in policy.receivers:
            variable = f"MESH_RECEIVERS__{name.upper()}"
            yield ConfigError("environment", variable, expected)
    try:
        renderer_of(policy.templates)
    except BadTemplate as error:
        yield settings.fault(ALERTS, f"templates.{error.name}", error.reason)


ALERTS = ConfigFile("alerts.yaml", AlertPolicy, _check)
