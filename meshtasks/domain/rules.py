"""Anomaly rules: the model of config/rules.yaml, and what its alerts say.

A rule watches every series whose routing key (and sensor id) it matches; a
series is one sensor at one location, as in the time-series store.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from string import Formatter
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    model_validator,
)
from typing_extensions import override

from meshtasks.domain.alerts import Alert, Severity
from meshtasks.domain.detection import (
    WINDOW_PARTS,
    Band,
    Event,
    Patience,
    RuleState,
    Run,
    Usual,
    watch_band,
    watch_past,
)
from meshtasks.domain.patterns import topic_matches


class Series(NamedTuple):
    """What a rule watches.

    Attributes:
        key: its name in the state; measurement and tags.
        kind: sensor kind.
        unit: canonical unit of its values.
        sensor_id: the sensor.
        location: where it is; empty when not known.
    """

    key: str
    kind: str
    unit: str
    sensor_id: str
    location: str


_SAMPLE_TEXT = {
    "rule": "name",
    "kind": "temperature",
    "sensor_id": "sensor",
    "location": "room",
    "place": "room",
    "value": 21.5,
    "unit": "°C",
    "limit": 20.0,
    "low": 10.0,
    "high": 20.0,
    "minutes": 5.0,
}


def _template(text: str) -> str:
    for _, name, _, _ in Formatter().parse(text):
        if name is not None and name not in _SAMPLE_TEXT:
            message = f"{{{name}}} is not known; expected {', '.join(_SAMPLE_TEXT)}"
            raise ValueError(message)
    text.format_map(_SAMPLE_TEXT)  # a bad format, such as {sensor_id:.1f}
    return text


Template = Annotated[str, Field(min_length=1), AfterValidator(_template)]


class _Rule(BaseModel, ABC):
    """What every rule has.

    Attributes:
        name: identity of the rule; its alerts have the source ``rules.<name>``.
        routing_key: topic pattern of the readings it watches.
        sensors: patterns (``*``, ``?``) of sensor ids; any one must match. For
            gateways that publish many sensors with one routing key.
        hysteresis: how far inside the limits a value must be to resolve the
            alert, canonical unit.
        for_seconds: how long values are outside before the alert fires.
        severity: of its alerts.
        title: template of the alert's title.
        message: template of its text while it fires.
        resolved_message: template of its text when it is over.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
    routing_key: Annotated[str, Field(min_length=1)]
    sensors: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    hysteresis: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    for_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    severity: Severity
    title: Template
    message: Template
    resolved_message: Template = "{place} is back at {value:.1f} {unit}."

    @cached_property
    def patience(self) -> Patience:
        """What it takes to fire and to resolve."""
        return Patience(self.hysteresis, self.for_seconds)

    def matches(self, routing_key: str, sensor_id: str) -> bool:
        """Whether the rule watches this sensor."""
        return topic_matches(self.routing_key, routing_key) and any(
            fnmatchcase(sensor_id, pattern) for pattern in self.sensors
        )

    @abstractmethod
    def evaluate(self, state: RuleState, run: Run) -> tuple[RuleState, list[Event]]:
        """Follow a series for a run of samples later than all before.

        Returns:
            The new state (the old one is not changed), and the alerts that begin
            or end.
        """

    def alert(self, series: Series, event: Event) -> Alert:
        """The alert that an event of this rule stands for."""
        low, high = event.band
        time, value = event.sample
        fields = {
            "rule": self.name,
            "kind": series.kind,
            "sensor_id": series.sensor_id,
            "location": series.location,
            "place": series.location or series.sensor_id,
            "value": value,
            "unit": series.unit,
            "limit": high if value > (low + high) / 2 else low,
            "low": low,
            "high": high,
            "minutes": (time - event.since) / 60,
        }
        labels = {
            "rule": self.name,
            "kind": series.kind,
            "sensor_id": series.sensor_id,
        }
        if series.location:
            labels["location"] = series.location
        message = self.message if event.firing else self.resolved_message
        return Alert(
            title=self.title.format_map(fields),
            message=message.format_map(fields),
            severity=self.severity,
            source=f"rules.{self.name}",
            labels=labels,
            starts_at=datetime.fromtimestamp(event.since, UTC),
            resolved=not event.firing,
        )


class ThresholdRule(_Rule):
    """Values above ``above`` or below ``below`` (canonical unit) are an alert."""

    type: Literal["threshold"]
    above: Annotated[float, Field(allow_inf_nan=False)] | None = None
    below: Annotated[float, Field(allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _can_fire_and_resolve(self) -> Self:
        if self.above is None and self.below is None:
            message = "expected above, below or both"
            raise ValueError(message)
        if self.band.low + self.hysteresis > self.band.high - self.hysteresis:
            message = "no value lies inside above and below by the hysteresis"
            raise ValueError(message)
        return self

    @cached_property
    def band(self) -> Band:
        """The normal values."""
        return Band(
            -math.inf if self.below is None else self.below,
            math.inf if self.above is None else self.above,
        )

    @override
    def evaluate(self, state: RuleState, run: Run) -> tuple[RuleState, list[Event]]:
        return watch_band(state, run, self.band, self.patience)


class DeviationRule(_Rule):
    """Values far from the series' own mean of the last ``window_seconds``.

    Normal is within ``z_score`` standard deviations and, since a quiet sensor
    has a tiny one, within ``minimum_deviation`` in any case. What is compared
    with lies at least a twelfth of the window back. Deviating values become part
    of the window in turn: a level that stays is normal after a while, and the
    alert is resolved.

    Attributes:
        window_seconds: the past that is compared with.
        minimum_samples: as long as the window holds fewer, nothing is unusual.
        z_score: standard deviations.
        minimum_deviation: canonical unit.
    """

    type: Literal["deviation"]
    window_seconds: Annotated[float, Field(ge=WINDOW_PARTS, allow_inf_nan=False)]
    minimum_samples: Annotated[int, Field(ge=2)] = 30
    z_score: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4.0
    minimum_deviation: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    @model_validator(mode="after")
    def _can_resolve(self) -> Self:
        if self.hysteresis > self.minimum_deviation:
            message = "hysteresis must not be larger than minimum_deviation"
            raise ValueError(message)
        return self

    @cached_property
    def usual(self) -> Usual:
        """What is normal."""
        return Usual(
            self.window_seconds,
            self.minimum_samples,
            self.z_score,
            self.minimum_deviation,
        )

    @override
    def evaluate(self, state: RuleState, run: Run) -> tuple[RuleState, list[Event]]:
        return watch_past(state, run, self.usual, self.patience)


Rule = ThresholdRule | DeviationRule


class RuleBook(BaseModel):
    """config/rules.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: tuple[Annotated[Rule, Field(discriminator="type")], ...] = ()

    _find: Callable[[str, str], tuple[Rule, ...]] = PrivateAttr()

    @model_validator(mode="after")
    def _has_unique_names(self) -> Self:
        names = [rule.name for rule in self.rules]
        if twice := {name for name in names if names.count(name) > 1}:
            message = f"rule names must be unique; twice: {', '.join(sorted(twice))}"
            raise ValueError(message)
        return self

    @override
    def model_post_init(self, context: object, /) -> None:
        self._find = lru_cache(maxsize=16_384)(self._matching)

    def matching(self, routing_key: str, sensor_id: str) -> tuple[Rule, ...]:
        """The rules that watch a sensor; cached."""
        return self._find(routing_key, sensor_id)

    def _matching(self, routing_key: str, sensor_id: str) -> tuple[Rule, ...]:
        return tuple(
            rule for rule in self.rules if rule.matches(routing_key, sensor_id)
        )
