"""F1: from a notice to the text of a notification, by Jinja2 templates.

The built-in ones make short texts for a phone. config/alerts.yaml may replace each
of them; these are tried out on samples when they are loaded, and should one fail on
a real alert, the built-in one takes its place: a notification never falls to its
template.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import jinja2
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from typing_extensions import override

from meshtasks.config.durations import span_text
from meshtasks.errors import MeshError
from meshtasks.flows.alerts.config import Texts
from meshtasks.flows.alerts.notice import Notice, Notification, Said
from meshtasks.flows.alerts.standing import Phase
from meshtasks.records.alert import Severity
from meshtasks.text import clip

logger = logging.getLogger(__name__)

_TITLE_LIMIT_CHARS = 160
#: ntfy takes 4,096 bytes of text, Apple's push service 4 KB with everything.
_BODY_LIMIT_BYTES = 2_000

_PRIORITIES = range(1, 6)
#: What is said of an alert whose texts are blank.
_NO_TEXT = "An alert without text"

#: What a template may raise, whatever it says.
_FAULTS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)


class BadTemplate(MeshError):
    """A template cannot be used.

    Args:
        name: which one.
        reason: why not.
    """

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason
        super().__init__(f"template {name}: {reason}")

    @override
    def __reduce__(self) -> tuple[type[BadTemplate], tuple[str, str]]:
        return type(self), (self.name, self.reason)


class Renderer:
    """Renders notices.

    Args:
        texts: templates of the configuration, where it has any.

    Raises:
        BadTemplate: one of them does not work on a sample.
    """

    def __init__(self, texts: Texts) -> None:
        built_in = _environment(jinja2.Undefined)
        self._built_in = {name: built_in.get_template(f"{name}.j2") for name in _MAKES}
        self._own: dict[str, jinja2.Template] = {}
        for name in _MAKES:
            text = getattr(texts, name)
            if text is not None:
                _try_out(name, text)
                self._own[name] = built_in.from_string(text)

    def render(self, notice: Notice, tag: str) -> Notification:
        """The notification of a notice.

        Args:
            notice: what there is to say.
            tag: names the notification on the phone.
        """
        made = {name: self._make(name, notice) for name in _MAKES}
        return Notification(
            title=made["title"],
            body=made["body"],
            priority=made["priority"],
            tags=made["tags"],
            tag=tag,
            severity=notice.severity,
            resolved=notice.status == "resolved",
        )

    def _make(self, name: str, notice: Notice) -> Any:
        own = self._own.get(name)
        if own is not None:
            try:
                return _MAKES[name](_render(own, notice))
            except _FAULTS as error:
                logger.warning(
                    "Template %s of alerts.yaml failed, the built-in one was used: %s",
                    name,
                    error,
                )
        return _MAKES[name](_render(self._built_in[name], notice) or _NO_TEXT)


def _render(template: jinja2.Template, notice: Notice) -> str:
    return template.render(
        {name: getattr(notice, name) for name in (*notice.__slots__, "alerts")}
    ).strip()


def _title(text: str) -> str:
    if not text:
        message = "it is empty"
        raise ValueError(message)
    return _one_line(text, _TITLE_LIMIT_CHARS)


def _body(text: str) -> str:
    if not text:
        message = "it is empty"
        raise ValueError(message)
    data = text.encode("utf-8", "replace")
    if len(data) <= _BODY_LIMIT_BYTES:
        return data.decode()
    return data[: _BODY_LIMIT_BYTES - 3].decode("utf-8", "ignore") + "…"


def _priority(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) in _PRIORITIES:
        return int(text)
    message = f"expected 1 to 5, got {text!r}"
    raise ValueError(message)


def _tags(text: str) -> tuple[str, ...]:
    return tuple(tag.strip() for tag in text.split(",") if tag.strip())


_MAKES = {"title": _title, "body": _body, "priority": _priority, "tags": _tags}


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
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=undefined,
        keep_trailing_newline=False,
    )
    environment.filters.update(clock=_clock, span=span_text, oneline=_one_line)
    return environment


class _AnyLabel(dict[str, str]):
    """The labels of a sample: templates may ask for labels that no sample knows."""

    def __missing__(self, name: str) -> str:
        return name


def _try_out(name: str, text: str) -> None:
    """Render samples, with misspelt names being errors."""
    try:
        template = _environment(jinja2.StrictUndefined).from_string(text)
        for sample in _samples():
            _MAKES[name](_render(template, sample))
    except _FAULTS as error:
        raise BadTemplate(name, str(error)) from error


def _samples() -> list[Notice]:
    moment = datetime(2026, 11, 23, 13, 20, tzinfo=UTC)

    def said(status: Phase, severity: Severity) -> Said:
        return Said(
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

    severities = cast("tuple[Severity, ...]", ("info", "warning", "critical"))
    phases = cast("tuple[Phase, ...]", ("firing", "flapping", "resolved"))
    return [
        Notice(
            status=status,
            severity=severity,
            repeats=repeats,
            going_on=[] if status == "resolved" else [said(status, severity)] * count,
            ended=[said("resolved", severity)] * count if status == "resolved" else [],
            group=_AnyLabel(),
            route="rest",
            now=moment,
        )
        for severity in severities
        for status in phases
        for repeats in (False, True)
        for count in (1, 2)
    ]


@lru_cache(maxsize=4)
def renderer_of(texts: Texts) -> Renderer:
    """The renderer for these templates.

    Raises:
        BadTemplate: one of them does not work on a sample.
    """
    return Renderer(texts)
