"""Anomaly rules: the model of config/rules.yaml, and the texts of the alerts.

A rule watches every series whose routing key it matches, further selected by sensor id,
or by name, field and tags of a metric. As in the time-series store, a series is one
sensor at one location, or one field of a metric with its tags.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from string import Formatter
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from typing_extensions import override

from meshtasks.amqp.entities import topic_matches
from meshtasks.config.loader import ConfigModel, refuse_all, twice
from meshtasks.config.settings import ConfigFile
from meshtasks.records.alert import Alert, Severity
from meshtasks.records.timestamps import utc_of
from meshtasks.rules.detection import (
    WINDOW_PARTS,
    Band,
    Event,
    Patience,
    RuleState,
    Run,
    Series,
    Usual,
    watch_band,
    watch_past,
)


class Tags(dict[str, str]):
    """Tags for templates; a missing tag is an empty text."""

    def __missing__(self, name: str) -> str:
        return ""


_SAMPLE_TEXT = {
    "rule": "name",
    "kind": "temperature",
    "sensor_id": "sensor",
    "location": "room",
    "place": "room",
    "field": "used_percent",
    "tags": Tags(),
    "value": 21.5,
    "unit": "°C",
    "limit": 20.0,
    "low": 10.0,
    "high": 20.0,
    "minutes": 5.0,
}
_TAG_NAME = re.compile(r"tags\[[^]]+\]")


def _template(text: str) -> str:
    for _, name, _, _ in Formatter().parse(text):
        if name is None or _TAG_NAME.fullmatch(name):
            continue
        if name not in _SAMPLE_TEXT or name == "tags":
            words = ", ".join(word for word in _SAMPLE_TEXT if word != "tags")
            message = f"{{{name}}} is not known; expected {words} or tags[…]"
            raise ValueError(message)
    text.format_map(_SAMPLE_TEXT)  # raises for a bad format such as {sensor_id:.1f}
    return text


Template = Annotated[str, Field(min_length=1), AfterValidator(_template)]


class _Rule(ConfigModel, ABC):
    """The settings of every rule.

    Attributes:
        name: identity of the rule; its alerts have the source ``rules.<name>``.
        routing_key: topic pattern of the readings or metrics that it watches.
        sensors: patterns (``*``, ``?``) of sensor ids, one of which must match; for
            devices that publish many sensors with one routing key.
        metric: pattern of the names of metrics. With it, the rule watches metrics,
            without it, readings.
        field: field of the metric; ``value`` for a metric with a single value.
        tags: tag → pattern. All must match; a missing tag counts as empty.
        hysteresis: distance inside the limits that a value must have to resolve the
            alert, in the canonical unit.
        for_seconds: how long values must be outside before the alert fires.
        severity: severity of the alerts.
        title: template of the title.
        message: template of the text of a firing alert.
        resolved_message: template of the text of a resolved alert; readings and metrics
            have a default each.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
    routing_key: Annotated[str, Field(min_length=1)]
    sensors: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    metric: Annotated[str, Field(min_length=1)] | None = None
    field: Annotated[str, Field(min_length=1)] = "value"
    tags: dict[str, str] = Field(default={})
    hysteresis: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    for_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    severity: Severity
    title: Template
    message: Template
    resolved_message: Template | None = None

    @model_validator(mode="after")
    def _watches_readings_or_metrics(self) -> Self:
        of_metrics = self.model_fields_set & {"field", "tags"}
        if of_metrics and self.metric is None:
            message = f"{min(of_metrics)} is for rules that name a metric"
            raise ValueError(message)
        if "sensors" in self.model_fields_set and self.metric is not None:
            message = "expected metric or sensors, not both"
            raise ValueError(message)
        return self

    @cached_property
    def patience(self) -> Patience:
        """Conditions under which an alert fires and is resolved."""
        return Patience(self.hysteresis, self.for_seconds)

    def matches(self, routing_key: str, sensor_id: str) -> bool:
        """Whether the rule watches this sensor."""
        return (
            self.metric is None
            and topic_matches(self.routing_key, routing_key)
            and any(fnmatchcase(sensor_id, pattern) for pattern in self.sensors)
        )

    def matches_metric(
        self, routing_key: str, name: str, tags: Mapping[str, str]
    ) -> bool:
        """Whether the rule watches a field of this metric."""
        return (
            self.metric is not None
            and topic_matches(self.routing_key, routing_key)
            and fnmatchcase(name, self.metric)
            and all(
                fnmatchcase(tags.get(tag, ""), pattern)
                for tag, pattern in self.tags.items()
            )
        )

    @abstractmethod
    def evaluate(self, state: RuleState, run: Run) -> tuple[RuleState, list[Event]]:
        """Evaluate new samples of a series, all later than those of earlier calls.

        Returns:
            The new state (``state`` is not changed), and the beginnings and ends of
            alerts.
        """

    def alert(self, series: Series, event: Event) -> Alert:
        """The alert record for an event of this rule."""
        low, high = event.band
        time, value = event.sample
        fields = {
            "rule": self.name,
            "kind": series.kind,
            "sensor_id": series.sensor_id,
            "location": series.location,
            "place": series.place,
            "field": series.field,
            "tags": Tags(series.tags),
            "value": value,
            "unit": series.unit,
            "limit": high if value > (low + high) / 2 else low,
            "low": low,
            "high": high,
            "minutes": (time - event.since) / 60,
        }
        message = self.message if event.firing else self._resolved_message
        return Alert(
            # A missing tag is empty, and could leave a title such as ": high load".
            title=self.title.format_map(fields).lstrip(" :,-").strip() or self.name,
            message=message.format_map(fields),
            severity=self.severity,
            source=f"rules.{self.name}",
            labels=series.labels | {"rule": self.name},
            starts_at=utc_of(event.since),
            resolved=not event.firing,
        )

    @property
    def _resolved_message(self) -> str:
        if self.resolved_message is not None:
            return self.resolved_message
        if self.metric is None:
            return "{place} is back at {value:.1f} {unit}."
        return "{place}: {kind} {field} is back at {value:g}."


class ThresholdRule(_Rule):
    """A rule that alerts on values above ``above`` or below ``below``.

    Attributes:
        type: selects this model.
        above: greatest normal value, in the canonical unit; None for no limit.
        below: smallest normal value, in the canonical unit; None for no limit.
    """

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
        """The range of normal values."""
        return Band(
            -math.inf if self.below is None else self.below,
            math.inf if self.above is None else self.above,
        )

    @override
    def evaluate(self, state: RuleState, run: Run) -> tuple[RuleState, list[Event]]:
        return watch_band(state, run, self.band, self.patience)


class DeviationRule(_Rule):
    """A rule that alerts on values far from the mean of the last ``window_seconds``.

    A value is normal if its distance from the mean is at most ``z_score`` standard
    deviations or ``minimum_deviation``; the latter matters for sensors whose values
    hardly vary. Values of the current twelfth of the window are not part of the mean.
    Later they are, deviating values too: a level that persists becomes normal, and the
    alert is resolved.

    Attributes:
        type: selects this model.
        window_seconds: length of the window, in seconds.
        minimum_samples: with fewer samples in the window, every value is normal.
        z_score: normal distance from the mean, in standard deviations.
        minimum_deviation: normal distance in any case, in the canonical unit.
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
        """Parameters of the range of normal values."""
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


class RuleBook(ConfigModel):
    """The model of config/rules.yaml.

    Attributes:
        rules: the rules, in the order of the file.
    """

    rules: tuple[Annotated[Rule, Field(discriminator="type")], ...] = ()

    @model_validator(mode="after")
    def _has_unique_names(self) -> Self:
        names = (rule.name for rule in self.rules)
        refuse_all(type(self).__name__, twice(names, "rule", "rules"))
        return self

    @cached_property
    def matching(self) -> Callable[[str, str], tuple[Rule, ...]]:
        """Cached function of routing key and sensor id: the rules for a sensor."""
        return lru_cache(maxsize=16_384)(self._matching)

    def _matching(self, routing_key: str, sensor_id: str) -> tuple[Rule, ...]:
        return tuple(
            rule for rule in self.rules if rule.matches(routing_key, sensor_id)
        )

    @cached_property
    def matching_metric(self) -> Callable[..., Mapping[str, tuple[Rule, ...]]]:
        """Cached function of routing key, name and tags: the rules for a metric, by
        field."""
        return lru_cache(maxsize=16_384)(self._matching_metric)

    def _matching_metric(
        self, routing_key: str, name: str, tags: tuple[tuple[str, str], ...]
    ) -> Mapping[str, tuple[Rule, ...]]:
        by_field: dict[str, tuple[Rule, ...]] = {}
        for rule in self.rules:
            if rule.matches_metric(routing_key, name, dict(tags)):
                by_field[rule.field] = (*by_field.get(rule.field, ()), rule)
        return by_field


RULES = ConfigFile("rules.yaml", RuleBook)
