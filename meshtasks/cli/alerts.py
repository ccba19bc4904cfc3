"""``meshtasks alerts``: list, silence and acknowledge alerts in the state."""

from __future__ import annotations

import getpass
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import tzinfo
from typing import TYPE_CHECKING, Annotated, Never

import typer

from meshtasks.cli.terminal import AsJsonLines, fail, say, tell_place
from meshtasks.config.durations import seconds_of, span_text
from meshtasks.config.settings import load_settings
from meshtasks.errors import SinkRejected
from meshtasks.flows.alerts.config import ALERTS, local_time, parse_matcher
from meshtasks.flows.alerts.current import (
    CurrentAlert,
    current_alerts,
    route_line,
    routes_notified,
)
from meshtasks.flows.alerts.handler import NOTIFIER
from meshtasks.flows.alerts.rendering import Notification
from meshtasks.flows.alerts.service import ALERT_STATE
from meshtasks.flows.alerts.state import (
    AlertEvent,
    AlertState,
    NotificationState,
    Silence,
)
from meshtasks.flows.sinks import Sinks
from meshtasks.text import clip

if TYPE_CHECKING:
    from meshtasks.flows.alerts.store import AlertTables

_TITLE_CHARS = 60
_DETAIL_CHARS = 160
#: Most alerts or labels in a list.
_EXAMPLES = 10


app = typer.Typer()


@app.command("list")
def show(
    *,
    every: Annotated[
        bool,
        typer.Option("--all", help="Show alerts that ended in the last week, too."),
    ] = False,
    as_json: AsJsonLines = False,
) -> None:
    """Show active alerts and silences.

    STATE is firing, acknowledged (no more reminders), flapping, silenced, inhibited,
    quiet hours, or resolved. NOTIFIED is the state that the receivers know, or
    "pending" if a notification is due.

    Exit codes: 0; 69 the state cannot be read; 78 bad configuration.
    """
    with _sinks() as sinks:
        policy = sinks.settings.read(ALERTS)
        with sinks[ALERT_STATE].tables() as tables:
            now = tables.now
            alerts = current_alerts(tables, policy, now, every=every)
            silences = [each for each in tables.silences() if each.ends_at > now]
    if as_json:
        for each in alerts:
            say(json.dumps(each.as_json(), ensure_ascii=False))
        return
    say(*table(alerts, policy.zone, now))
    say(*silence_lines(silences, policy.zone, now))


@app.command()
def silence(
    matchers: Annotated[
        list[str],
        typer.Argument(
            metavar="MATCHER",
            help="Conditions that must all match: location=attic, severity!=critical, "
            "source=~rules.*",
        ),
    ],
    *,
    lasts: Annotated[
        str,
        typer.Option(
            "--for", metavar="TIME", help="Duration, such as 2h, 1h30m or 7d."
        ),
    ],
    comment: Annotated[
        str, typer.Option(help="Reason, for the list of silences.")
    ] = "",
) -> None:
    """Mute notifications of matching alerts for a time.

    The command prints the id of the silence and, on standard error, the alerts that it
    mutes now. Alerts that are still active when the silence ends are notified then.

    Exit codes: 0; 2 no matcher or no time; 69 the state cannot be written.
    """
    try:
        texts = tuple(str(parse_matcher(text)) for text in matchers)
        seconds = seconds_of(lasts)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    with _tables() as tables:
        now = tables.now
        made = Silence(
            secrets.token_hex(4), texts, now, now + seconds, _user(), comment
        )
        tables.begin_silence(made, now)
        firing = tables.firing()
    say(*silenced_lines(made, firing, now), err=True)
    say(made.id)


@app.command("show")
def show_one(
    fingerprints: Annotated[
        list[str],
        typer.Argument(metavar="ID", help="Ids of alerts, or their beginnings."),
    ],
) -> None:
    """Show an alert: text, labels, notifications.

    Exit codes: 0; 1 there is no such alert; 69 the state cannot be read.
    """
    with _sinks() as sinks:
        policy = sinks.settings.read(ALERTS)
        with sinks[ALERT_STATE].tables() as tables:
            now = tables.now
            alerts = current_alerts(tables, policy, now, every=True)
            known = {each.alert.fingerprint: each for each in alerts}
            pages = [
                list(page(known[name], routes_notified(tables, name), policy.zone, now))
                for name in (_the_one(known, each, "alerts") for each in fingerprints)
            ]
    say("\n\n".join("\n".join(each) for each in pages))


@app.command()
def expire(
    silence_ids: Annotated[
        list[str],
        typer.Argument(metavar="ID", help="Ids of silences, or their beginnings."),
    ],
) -> None:
    """End silences now. Alerts that they muted and that are still active are notified.

    Exit codes: 0; 1 there is no such silence; 69 the state cannot be written.
    """
    with _tables() as tables:
        now = tables.now
        lasting = {each.id: each for each in tables.silences() if each.ends_at > now}
        for name in [_the_one(lasting, each, "silences") for each in silence_ids]:
            tables.end_silence(lasting[name], _user(), now)


@app.command()
def ack(
    fingerprints: Annotated[
        list[str],
        typer.Argument(metavar="ID", help="Ids of alerts, or their beginnings."),
    ],
) -> None:
    """Stop the reminders of alerts. Their end is still notified.

    An alert that fires again later is notified, with reminders, like a new alert.

    Exit codes: 0; 1 there is no such active alert; 69 the state cannot be written.
    """
    with _tables() as tables:
        firing = {each.fingerprint: each for each in tables.firing()}
        for beginning in fingerprints:
            alert = firing[_the_one(firing, beginning, "active alerts")]
            tables.acknowledge(alert, _user(), tables.now)
            say(f"{alert.fingerprint} {alert.title}")


@app.command()
def history(
    *,
    limit: Annotated[int, typer.Option(min=1, help="Number of events.")] = 50,
    as_json: AsJsonLines = False,
) -> None:
    """Show recent events, the latest last: start and end of alerts, and notifications
    that were sent, or were not, with the reason.

    Exit codes: 0; 69 the state cannot be read; 78 bad configuration.
    """
    with _sinks() as sinks:
        zone = sinks.settings.read(ALERTS).zone
        with sinks[ALERT_STATE].tables() as tables:
            events = tables.history(limit)[::-1]
    if as_json:
        for event in events:
            say(json.dumps(asdict(event), ensure_ascii=False))
    else:
        say(*history_lines(events, zone))


@app.command()
def test(
    receiver: Annotated[str, typer.Argument(help="Receiver in alerts.yaml.")],
) -> None:
    """Send a test notification to a receiver.

    Exit codes: 0 the service accepted it; 1 the service rejected it, or the receiver
    has no URL; 69 the service cannot be reached, or denies access; 78 bad
    configuration.
    """
    with _sinks() as sinks:
        if receiver not in sinks.settings.read(ALERTS).receivers:
            _refuse(f"alerts.yaml declares no receiver {receiver}")
        if receiver not in sinks.settings.env.receivers:
            _refuse(f"MESH_RECEIVERS__{receiver.upper()} is not set")
        try:
            sinks[NOTIFIER].send(receiver, _SAMPLE)
        except SinkRejected as error:
            _refuse(str(error))
    say(f"receiver {receiver} accepted it")


_SAMPLE = Notification(
    title="Test of the alert manager",
    body="If you can read this, notifications arrive.",
    priority=3,
    tags=("test_tube",),
    tag="mesh-test",
    severity="info",
    resolved=False,
)


@contextmanager
def _sinks() -> Iterator[Sinks]:
    """The sinks of the command; the location of the state is printed."""
    settings = load_settings()
    tell_place(settings.env, "state_url")
    with closing(Sinks(settings)) as sinks:
        yield sinks


@contextmanager
def _tables() -> Iterator[AlertTables]:
    """The tables, in one transaction."""
    with _sinks() as sinks, sinks[ALERT_STATE].tables() as tables:
        yield tables


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user in a container may have no name
        return "unknown"


def _the_one(known: Iterable[str], beginning: str, what: str) -> str:
    """The only id with this beginning.

    Raises:
        typer.Exit: there is none, or more than one.
    """
    found = [each for each in known if each.startswith(beginning)]
    if len(found) != 1:
        _refuse(
            f"{len(found) or 'no'} {what} have an id that begins with {beginning} "
            "(meshtasks alerts list)"
        )
    return found[0]


def _refuse(message: str) -> Never:
    fail(message, exit_code=1)


def table(
    shown: Sequence[CurrentAlert], zone: tzinfo | None, now: float
) -> Iterator[str]:
    """The lines of a table of alerts, with a header."""
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
    """The lines about one alert."""
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
    """Lines with the alerts that a silence mutes now.

    If there are none, the labels that matchers can use.
    """
    muted = [each for each in firing if silence.covers(each.labels, now)]
    if muted:
        noun = "alert" if len(muted) == 1 else "alerts"
        yield f"mutes {len(muted)} active {noun}:"
        yield from (f"  {clip(each.title, _TITLE_CHARS)}" for each in muted[:_EXAMPLES])
        if len(muted) > _EXAMPLES:
            yield f"  and {len(muted) - _EXAMPLES} more"
        return
    yield "no active alert matches; future alerts are muted"
    labels = sorted({item for each in firing for item in each.labels.items()})
    if labels:
        named = ", ".join(f"{name}={value}" for name, value in labels[:_EXAMPLES])
        more = f" and {len(labels) - _EXAMPLES} more" * (len(labels) > _EXAMPLES)
        yield f"active alerts have the labels {named}{more}"


def silence_lines(
    silences: Sequence[Silence], zone: tzinfo | None, now: float
) -> Iterator[str]:
    """The silences, a line for each."""
    for each in silences:
        left = span_text(each.ends_at - now)
        why = f" ({each.comment})" if each.comment else ""
        yield (
            f"silence {each.id}: {' '.join(each.matchers)} until "
            f"{_moment(each.ends_at, zone)} ({left} left), by {each.created_by}{why}"
        )


def history_lines(events: Sequence[AlertEvent], zone: tzinfo | None) -> Iterator[str]:
    """The events, a line for each."""
    for event in events:
        moment = local_time(event.at, zone).strftime("%Y-%m-%d %H:%M:%S")
        who = f" [{event.who}]" if event.who else ""
        detail = clip(" ".join(event.detail.split()), _DETAIL_CHARS)
        said = f": {detail}" if detail else ""
        yield f"{moment}  {event.kind:<13}{who} {event.title}{said}"


def _moment(at: float, zone: tzinfo | None) -> str:
    return local_time(at, zone).strftime("%d %b %H:%M")
