"""Alerts, silences and events as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import tzinfo

from meshtasks.config.durations import span_text
from meshtasks.flows.alerts.config import local_time
from meshtasks.flows.alerts.service import CurrentAlert, route_line
from meshtasks.flows.alerts.state import (
    AlertEvent,
    AlertState,
    NotificationState,
    Silence,
)
from meshtasks.text import clip

_TITLE_CHARS = 60
_DETAIL_CHARS = 160
#: Alerts or labels that are named where there may be hundreds.
_EXAMPLES = 10


def table(
    shown: Sequence[CurrentAlert], zone: tzinfo | None, now: float
) -> Iterator[str]:
    """A table of alerts, with a head."""
    if not shown:
        yield "no alerts"
        return
    rows = [("ID", "STATE", "SEVERITY", "SINCE", "FOR", "NOTIFIED", "TITLE")]
    for alert, state, notified in shown:
        ends_at = now if alert.ends_at is None else alert.ends_at
        rows.append(
            (
                alert.fingerprint,
                state,
                alert.severity,
                _moment(alert.starts_at, zone),
                span_text(ends_at - alert.starts_at),
                notified,
                clip(" ".join(alert.title.split()), _TITLE_CHARS),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, strict=True)
        yield "  ".join(cell.ljust(width) for cell, width in cells).rstrip()


def page(
    shown: CurrentAlert,
    routes: Mapping[str, NotificationState],
    zone: tzinfo | None,
    now: float,
) -> Iterator[str]:
    """All of one alert."""
    alert = shown.alert
    ends_at = now if alert.ends_at is None else alert.ends_at
    yield f"{'id':<12} {alert.fingerprint}"
    yield f"{'title':<12} {alert.title}"
    yield f"{'message':<12} {alert.message}"
    yield f"{'state':<12} {shown.state}"
    yield f"{'severity':<12} {alert.severity}"
    yield f"{'source':<12} {alert.source}"
    yield f"{'since':<12} {_moment(alert.starts_at, zone)}"
    yield f"{'for':<12} {span_text(ends_at - alert.starts_at)}"
    if alert.acknowledged_by:
        yield f"{'acknowledged':<12} by {alert.acknowledged_by}"
    for name, value in sorted(alert.own_labels.items()):
        yield f"{'label':<12} {name}={value}"
    for route, known in sorted(routes.items()):
        yield f"{'notified':<12} {route_line(route, known, zone)}"


def silenced_lines(
    silence: Silence, firing: Sequence[AlertState], now: float
) -> Iterator[str]:
    """What a silence mutes now; if nothing, by which labels alerts can be matched."""
    muted = [each for each in firing if silence.covers(each.labels, now)]
    if muted:
        noun = "alert that goes" if len(muted) == 1 else "alerts that go"
        yield f"silences {len(muted)} {noun} on:"
        yield from (f"  {clip(each.title, _TITLE_CHARS)}" for each in muted[:_EXAMPLES])
        if len(muted) > _EXAMPLES:
            yield f"  and {len(muted) - _EXAMPLES} more"
        return
    yield "no alert that goes on matches; it holds for those to come"
    labels = sorted({item for each in firing for item in each.labels.items()})
    if labels:
        named = ", ".join(f"{name}={value}" for name, value in labels[:_EXAMPLES])
        more = f" and {len(labels) - _EXAMPLES} more" * (len(labels) > _EXAMPLES)
        yield f"alerts that go on have the labels {named}{more}"


def silence_lines(
    silences: Sequence[Silence], zone: tzinfo | None, now: float
) -> Iterator[str]:
    """The silences, one a line."""
    for each in silences:
        left = span_text(each.ends_at - now)
        why = f" ({each.comment})" if each.comment else ""
        yield (
            f"silence {each.id}: {' '.join(each.matchers)} until "
            f"{_moment(each.ends_at, zone)} ({left} left), by {each.created_by}{why}"
        )


def history_lines(events: Sequence[AlertEvent], zone: tzinfo | None) -> Iterator[str]:
    """Events, one a line."""
    for event in events:
        moment = local_time(event.at, zone).strftime("%Y-%m-%d %H:%M:%S")
        who = f" [{event.who}]" if event.who else ""
        detail = clip(" ".join(event.detail.split()), _DETAIL_CHARS)
        said = f": {detail}" if detail else ""
        yield f"{moment}  {event.kind:<13}{who} {event.title}{said}"


def _moment(at: float, zone: tzinfo | None) -> str:
    return local_time(at, zone).strftime("%d %b %H:%M")
