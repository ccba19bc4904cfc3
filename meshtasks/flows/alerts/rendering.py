"""Texts of notifications, by Jinja2 templates; pure.

The built-in templates make short texts for a phone. config/alerts.yaml may replace each
of them; these are tried on samples when they are loaded, and if one fails on a real
alert the built-in one is used: no notification is lost to its template.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import jinja2
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from typing_extensions import override

from meshtasks.config.durations import span_text
from meshtasks.errors import MeshError
from meshtasks.flows.alerts.config import Flapping, TemplateTexts, local_time
from meshtasks.flows.alerts.state import AlertGroup, AlertState, Phase, rank
from meshtasks.records.alert import Severity
from meshtasks.text import clip

logger = logging.getLogger(__name__)

_TITLE_LIMIT_CHARS = 160
#: ntfy takes 4,096 bytes of text, Apple's push service 4 KB with everything.
_BODY_LIMIT_BYTES = 2_000

_PRIORITIES = range(1, 6)
#: The text for an alert whose texts are blank.
_NO_TEXT = "An alert without text"

#: What a template may raise.
_FAULTS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class TemplateAlert:
    """One alert as templates see it. Moments are in local time.

    Attributes:
        status: ``firing``, ``flapping`` or ``resolved``.
        ends_at: when it was resolved; None while it goes on.
        lasted_seconds: from its beginning to its end, or to now.
        changes: how often it began and ended lately.
        acknowledged_by: who wants no more reminders; empty for nobody.
    """

    title: str
    message: str
    severity: Severity
    source: str
    labels: dict[str, str]
    status: Phase
    starts_at: datetime
    ends_at: datetime | None
    lasted_seconds: float
    changes: int
    acknowledged_by: str


@dataclass(frozen=True, slots=True)
class TemplateContext:
    """The variables of templates.

    Attributes:
        status: ``firing`` if any alert fires, else ``flapping`` if any flaps, else
            ``resolved``.
        severity: the highest of the alerts that go on, or of all if none does.
        repeats: it is only a reminder; there is no news.
        going_on: the alerts that fire or flap, the most severe and latest first.
        ended: the alerts that are resolved.
        group: the labels that they have in common.
        route: name of the route.
        now: local time.
    """

    status: Phase
    severity: Severity
    repeats: bool
    going_on: list[TemplateAlert]
    ended: list[TemplateAlert]
    group: dict[str, str]
    route: str
    now: datetime

    @property
    def alerts(self) -> list[TemplateAlert]:
        """All alerts, those that go on first."""
        return [*self.going_on, *self.ended]


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification, ready to be sent.

    Attributes:
        title: one line, never empty.
        body: short text, never empty.
        priority: 1 (hardly noticed) to 5 (loud), as ntfy has them.
        tags: words; phones show some of them as emoji.
        tag: a later notification with the same one replaces it on the phone.
        resolved: every alert in it is resolved.
    """

    title: str
    body: str
    priority: int
    tags: tuple[str, ...]
    tag: str
    severity: Severity
    resolved: bool


class BadTemplate(MeshError):
    """The template ``name`` cannot be used, for a ``reason``."""

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason
        super().__init__(f"template {name}: {reason}")

    @override
    def __reduce__(self) -> tuple[type[BadTemplate], tuple[str, str]]:
        return type(self), (self.name, self.reason)


def template_context(
    group: AlertGroup,
    alerts: Sequence[AlertState],
    flapping: Flapping,
    zone: tzinfo | None,
    now: float,
    *,
    repeats: bool,
) -> TemplateContext:
    """The template variables for some alerts of a group, at least one.

    Args:
        group: the group.
        alerts: the alerts.
        flapping: what counts as flapping.
        zone: time zone of the texts; the host's own when None.
        now: epoch seconds.
        repeats: it is only a reminder.
    """
    ordered = sorted(
        alerts, key=lambda alert: (-rank(alert.severity), -alert.starts_at)
    )
    views = [_template_alert(alert, flapping, zone, now) for alert in ordered]
    going_on = [view for view in views if view.status != "resolved"]
    statuses = {view.status for view in going_on}
    status: Phase = "firing" if "firing" in statuses else "flapping"
    return TemplateContext(
        status=status if going_on else "resolved",
        severity=(going_on or views)[0].severity,
        repeats=repeats,
        going_on=going_on,
        ended=[view for view in views if view.status == "resolved"],
        group=group.labels,
        route=group.route,
        now=local_time(now, zone),
    )


def _template_alert(
    alert: AlertState, flapping: Flapping, zone: tzinfo | None, now: float
) -> TemplateAlert:
    ends_at = alert.ends_at
    return TemplateAlert(
        title=alert.title,
        message=alert.message,
        severity=alert.severity,
        source=alert.source,
        labels=alert.own_labels,
        status=alert.phase(flapping, now),
        starts_at=local_time(alert.starts_at, zone),
        ends_at=None if ends_at is None else local_time(ends_at, zone),
        lasted_seconds=(now if ends_at is None else ends_at) - alert.starts_at,
        changes=sum(at > now - flapping.within for at in alert.changes),
        acknowledged_by=alert.acknowledged_by or "",
    )


class Renderer:
    """Makes notifications.

    Args:
        texts: templates of the configuration, where it has any.

    Raises:
        BadTemplate: one of them does not work on a sample.
    """

    def __init__(self, texts: TemplateTexts) -> None:
        built_in = _environment(jinja2.Undefined)
        self._built_in = {
            name: built_in.get_template(f"{name}.j2") for name in _PARSERS
        }
        self._own: dict[str, jinja2.Template] = {}
        for name in _PARSERS:
            text = getattr(texts, name)
            if text is not None:
                _try_out(name, text)
                self._own[name] = built_in.from_string(text)

    def render(self, context: TemplateContext, tag: str) -> Notification:
        """The notification of some alerts.

        Args:
            context: the template variables.
            tag: identifies the notification on the phone.
        """
        parts = {name: self._part(name, context) for name in _PARSERS}
        return Notification(
            **parts,
            tag=tag,
            severity=context.severity,
            resolved=context.status == "resolved",
        )

    def _part(self, name: str, context: TemplateContext) -> Any:
        parse = _PARSERS[name]
        if (own := self._own.get(name)) is not None:
            try:
                return parse(_render(own, context))
            except _FAULTS as error:
                logger.warning(
                    "Template %s of alerts.yaml failed, the built-in one was used: %s",
                    name,
                    error,
                )
        return parse(_render(self._built_in[name], context) or _NO_TEXT)


@lru_cache(maxsize=4)
def renderer_of(texts: TemplateTexts) -> Renderer:
    """The renderer for these templates.

    Raises:
        BadTemplate: one of them does not work on a sample.
    """
    return Renderer(texts)


def _render(template: jinja2.Template, context: TemplateContext) -> str:
    names = *context.__slots__, "alerts"
    return template.render({name: getattr(context, name) for name in names}).strip()


def _title(text: str) -> str:
    return _one_line(_not_empty(text), _TITLE_LIMIT_CHARS)


def _body(text: str) -> str:
    data = _not_empty(text).encode("utf-8", "replace")
    if len(data) <= _BODY_LIMIT_BYTES:
        return data.decode()
    return data[: _BODY_LIMIT_BYTES - 3].decode("utf-8", "ignore") + "…"


def _not_empty(text: str) -> str:
    if not text:
        message = "it is empty"
        raise ValueError(message)
    return text


def _priority(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) in _PRIORITIES:
        return int(text)
    message = f"expected 1 to 5, got {text!r}"
    raise ValueError(message)


def _tags(text: str) -> tuple[str, ...]:
    return tuple(tag.strip() for tag in text.split(",") if tag.strip())


_PARSERS = {"title": _title, "body": _body, "priority": _priority, "tags": _tags}


def _one_line(text: object, limit_chars: int) -> str:
    return clip(" ".join(str(text).split()), limit_chars)


@jinja2.pass_context
def _clock(context: Context, moment: datetime) -> str:
    """``14:05``, with the date where it is not today's."""
    today = context["now"].date()
    return moment.strftime("%H:%M" if moment.date() == today else "%d %b %H:%M")


def _environment(undefined: type[jinja2.Undefined]) -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(
        autoescape=False,  # plain text, no markup
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=undefined,
        keep_trailing_newline=False,
    )
    environment.filters.update(clock=_clock, span=span_text, oneline=_one_line)
    return environment


class _AnyLabel(dict[str, str]):
    """The labels of a sample: templates may use labels that no sample knows."""

    def __missing__(self, name: str) -> str:
        return name


def _try_out(name: str, text: str) -> None:
    """Render samples, with misspelt names being errors."""
    try:
        template = _environment(jinja2.StrictUndefined).from_string(text)
        for sample in _samples():
            _PARSERS[name](_render(template, sample))
    except _FAULTS as error:
        raise BadTemplate(name, str(error)) from error


def _samples() -> list[TemplateContext]:
    moment = datetime(2026, 11, 23, 13, 20, tzinfo=UTC)

    def sample(status: Phase, severity: Severity) -> TemplateAlert:
        return TemplateAlert(
            title="attic is damp",
            message="attic has 85 % humidity.",
            severity=severity,
            source="rules.damp",
            labels=_AnyLabel(),
            status=status,
            starts_at=moment,
            ends_at=moment if status == "resolved" else None,
            lasted_seconds=60.0,
            changes=2,
            acknowledged_by="",
        )

    return [
        TemplateContext(
            status=status,
            severity=severity,
            repeats=repeats,
            going_on=[sample(status, severity)] * count * (status != "resolved"),
            ended=[sample(status, severity)] * count * (status == "resolved"),
            group=_AnyLabel(),
            route="rest",
            now=moment,
        )
        for severity in get_args(Severity)
        for status in get_args(Phase)
        for repeats in (False, True)
        for count in (1, 2)
    ]
