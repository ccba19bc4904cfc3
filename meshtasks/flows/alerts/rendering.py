"""Renders the texts of notifications with Jinja2 templates.

The built-in templates make short texts for a phone; config/alerts.yaml may replace each
of them. Replacements are tested with samples when they are loaded. If one fails with a
real alert, the built-in template is used, so no notification is lost.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from itertools import product
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
#: Limit of texts: ntfy accepts 4,096 bytes of text, Apple's push service 4 KB in all.
_BODY_LIMIT_BYTES = 2_000

_PRIORITIES = range(1, 6)
#: Text for an alert whose texts are blank.
_NO_TEXT = "An alert without text"

#: Errors that a template may raise.
_FAULTS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Notification:
    """A notification, ready to be sent.

    Attributes:
        title: one line, never empty.
        body: short text, never empty.
        priority: ntfy's priority, 1 (silent) to 5 (loud).
        tags: words, some of which phones show as emoji.
        tag: identifies it on the phone; a later notification with the same tag replaces
            it.
        severity: see :func:`template_context`.
        resolved: whether all its alerts are resolved.
    """

    title: str
    body: str
    priority: int
    tags: tuple[str, ...]
    tag: str
    severity: Severity
    resolved: bool


class BadTemplate(MeshError):
    """A template cannot be used.

    Attributes:
        name: name of the template: title, body, priority or tags.
        reason: why it cannot be used.
    """

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
) -> dict[str, Any]:
    """The template variables for one or more alerts of a group.

    Returns:
        ``status`` (``firing`` if an alert is firing, else ``flapping`` if one is
        flapping, else ``resolved``), ``repeats`` (whether it is a reminder),
        ``going_on`` (the alerts that are firing or flapping, the most severe and latest
        first), ``ended`` (the resolved alerts), ``alerts`` (both), ``severity`` (the
        highest of ``going_on``, or of ``ended`` if that is empty), ``group`` (the
        common labels), ``route``, and ``now`` in local time.
    """
    ordered = sorted(
        alerts, key=lambda alert: (-rank(alert.severity), -alert.starts_at)
    )
    views = [_template_alert(alert, flapping, zone, now) for alert in ordered]
    going_on = [view for view in views if view["status"] != "resolved"]
    ended = [view for view in views if view["status"] == "resolved"]
    statuses = {view["status"] for view in views}
    phases: tuple[Phase, ...] = ("firing", "flapping", "resolved")
    return {
        "status": next(phase for phase in phases if phase in statuses),
        "severity": (going_on or views)[0]["severity"],
        "repeats": repeats,
        "going_on": going_on,
        "ended": ended,
        "alerts": [*going_on, *ended],
        "group": group.labels,
        "route": group.route,
        "now": local_time(now, zone),
    }


def _template_alert(
    alert: AlertState, flapping: Flapping, zone: tzinfo | None, now: float
) -> dict[str, Any]:
    ends_at = alert.ends_at
    return {
        "title": alert.title,
        "message": alert.message,
        "severity": alert.severity,
        "source": alert.source,
        "labels": alert.own_labels,
        "status": alert.phase(flapping, now),
        "starts_at": local_time(alert.starts_at, zone),
        "ends_at": None if ends_at is None else local_time(ends_at, zone),
        "lasted_seconds": (now if ends_at is None else ends_at) - alert.starts_at,
        "changes": sum(at > now - flapping.within for at in alert.changes),
        "acknowledged_by": alert.acknowledged_by or "",
    }


class Renderer:
    """Makes notifications with the configured and the built-in templates.

    Raises:
        BadTemplate: a template fails with a sample.
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

    def render(self, context: Mapping[str, Any], tag: str) -> Notification:
        """Render a notification.

        Args:
            context: see :func:`template_context`.
            tag: identifies the notification on the phone.
        """
        return Notification(
            **{name: self._part(name, context) for name in _PARSERS},
            tag=tag,
            severity=context["severity"],
            resolved=context["status"] == "resolved",
        )

    def _part(self, name: str, context: Mapping[str, Any]) -> Any:
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
    """The renderer for these templates, cached.

    Raises:
        BadTemplate: a template fails with a sample.
    """
    return Renderer(texts)


def _render(template: jinja2.Template, context: Mapping[str, Any]) -> str:
    return template.render(context).strip()


def _title(text: str) -> str:
    return _one_line(_not_empty(text), _TITLE_LIMIT_CHARS)


def _body(text: str) -> str:
    data = _not_empty(text).encode("utf-8", "replace")
    if len(data) <= _BODY_LIMIT_BYTES:
        return data.decode()
    return data[: _BODY_LIMIT_BYTES - 3].decode("utf-8", "ignore") + "…"


def _not_empty(text: str) -> str:
    if not text:
        raise ValueError("it is empty")
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
    """``14:05``, with the date unless it is today."""
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
    """Labels of a sample. It has every label, because templates may use any."""

    def __missing__(self, name: str) -> str:
        return name


def _try_out(name: str, text: str) -> None:
    """Render samples. An undefined name, such as a misspelt one, is an error."""
    try:
        template = _environment(jinja2.StrictUndefined).from_string(text)
        for sample in _samples():
            _PARSERS[name](_render(template, sample))
    except _FAULTS as error:
        raise BadTemplate(name, str(error)) from error


def _samples() -> Iterator[dict[str, Any]]:
    now, flapping = 1_795_440_000.0, Flapping()
    group = AlertGroup("sample", "rest", _AnyLabel(), "sample")
    for severity, phase in product(get_args(Severity), get_args(Phase)):
        alert = AlertState(
            fingerprint="sample",
            title="attic is damp",
            message="attic has 85 % humidity.",
            severity=severity,
            source="rules.damp",
            own_labels=_AnyLabel(),
            firing=phase != "resolved",
            began=None,
            starts_at=now - 60,
            ends_at=now if phase == "resolved" else None,
            published_at=now,
            received_at=now,
            changes=(now,) * flapping.changes * (phase == "flapping"),
        )
        for repeats, alerts in product((False, True), ([alert], [alert, alert])):
            yield template_context(group, alerts, flapping, UTC, now, repeats=repeats)
