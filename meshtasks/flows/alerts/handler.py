"""The flow of alerts: its handlers, the timer that sends notifications, its command.

The exchange ``alerts`` is a fanout exchange, so both queues get every alert. The
handler of ``alerts.critical`` stores only critical alerts, that of
``alerts.notifications`` only the others, so each alert is stored once. A rerun of the
command is harmless, because the id of the silence is made from the id of the call.
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from meshtasks.config.settings import Settings
from meshtasks.errors import MeshError, SinkRejected, SinkUnavailable
from meshtasks.flows.alerts.config import ALERTS, AlertPolicy, Route, parse_matcher
from meshtasks.flows.alerts.service import (
    ALERT_STATE,
    AlertService,
    AlertUpdate,
    ClaimedNotification,
)
from meshtasks.flows.alerts.state import AlertEvent, EventKind, Silence
from meshtasks.flows.circuit import Circuit, State
from meshtasks.flows.contract import (
    Arguments,
    Batch,
    Command,
    Flow,
    Handler,
    Span,
    Timer,
    handles,
)
from meshtasks.flows.diagnosis import Check, Detail, Doubt, Verdict, unreachable
from meshtasks.flows.excerpts import ARCHIVE
from meshtasks.flows.pipeline import identified_records, send_to_archive
from meshtasks.flows.sinks import SinkKey, Sinks
from meshtasks.outcome import DONE, Dead, Outcome, outcome_of
from meshtasks.records.alert import Alert, Severity, misplaced
from meshtasks.records.envelope import Envelope
from meshtasks.records.timestamps import published_at
from meshtasks.timing import Backoff

_SILENCE_ID_BYTES = 4
_Matcher = Annotated[str, AfterValidator(lambda text: str(parse_matcher(text)))]


class SilenceAlerts(Arguments):
    """Mute notifications of matching alerts for a time.

    Attributes:
        matchers: conditions that must all match, as of ``meshtasks alerts silence``.
        lasts: duration, such as ``2h`` or ``1h30m``.
        comment: reason.
        created_by: name of who silences them.
    """

    matchers: Annotated[list[_Matcher], Field(min_length=1)]
    lasts: Span
    comment: str = ""
    created_by: str = "a command"


def silence_alerts(
    arguments: SilenceAlerts, sinks: Sinks, call_id: str
) -> dict[str, Any]:
    """Mute notifications of matching alerts for a time.

    Raises:
        SinkUnavailable: the state of alerts is busy or cannot be written.
    """
    now = sinks[ALERT_STATE].now()
    digest = hashlib.blake2b(call_id.encode(), digest_size=_SILENCE_ID_BYTES)
    silence = Silence(
        digest.hexdigest(),
        tuple(arguments.matchers),
        now,
        now + arguments.lasts,
        arguments.created_by,
        arguments.comment,
    )
    with sinks[ALERT_STATE].tables() as tables:
        silence = tables.begin_silence(silence, now)
    return {"silence_id": silence.id, "ends_at": silence.ends_at}


COMMANDS: tuple[Command[Any], ...] = (
    Command("silence_alerts", SilenceAlerts, silence_alerts, frozenset({"operate"})),
)


if TYPE_CHECKING:
    from meshtasks.flows.alerts.notifier import Notifier
    from meshtasks.flows.alerts.rendering import Notification

logger = logging.getLogger(__name__)


def _open_notifier(sinks: Sinks) -> Notifier:
    from meshtasks.flows.alerts.notifier import Notifier  # noqa: PLC0415 - loads Apprise

    return Notifier(sinks.settings.env.receivers)


NOTIFIER = SinkKey("notifier", _open_notifier, extra="alerts")
#: Circuits by name of the receiver.
RECEIVER_CIRCUITS: SinkKey[defaultdict[str, Circuit]] = SinkKey(
    "receivers", lambda _sinks: defaultdict(Circuit), outlives=True
)
_SINKS = (ALERT_STATE,)

#: Minimum wait between attempts to notify a group of which all receivers failed.
_RETRIES = Backoff(first_seconds=5.0, longest_seconds=30.0)


def _service(sinks: Sinks) -> AlertService:
    return AlertService(sinks[ALERT_STATE], sinks.settings.read(ALERTS))


def notify_due(sinks: Sinks, clock: Callable[[], float] | None = None) -> None:
    """Send all notifications that are due.

    Args:
        sinks: give the state of alerts and the receivers.
        clock: returns epoch seconds; default: the clock of the state.

    Raises:
        SinkUnavailable: the state of alerts is busy or unavailable.
    """
    clock = clock or sinks[ALERT_STATE].now
    service, policy = _service(sinks), sinks.settings.read(ALERTS)
    while (claimed := service.claim(clock())) is not None:
        group = claimed.group
        notification = _rendered(claimed, policy, clock())
        sending = _Sending(notification, policy.by_name[group.route], sinks, clock)
        retry_at = sending.send(group.failures)
        tried = bool(sending.events)
        service.resolve(
            claimed, sending.events, clock(), retry_at=retry_at, tried=tried
        )


def _rendered(
    claimed: ClaimedNotification, policy: AlertPolicy, now: float
) -> Notification:
    # loads jinja2, which a mesh without alerts does not need
    from meshtasks.flows.alerts.rendering import (  # noqa: PLC0415
        renderer_of,
        template_context,
    )

    context = template_context(
        claimed.group,
        claimed.alerts,
        policy.flapping,
        policy.zone,
        now,
        repeats=claimed.repeats,
    )
    return renderer_of(policy.templates).render(context, claimed.group.tag)


def _check_receivers(settings: Settings) -> None:
    """Raise ConfigError for an invalid URL of a receiver."""
    if settings.env.receivers:
        _ = Sinks(settings)[NOTIFIER]


NOTIFYING = Timer(run=notify_due, check=_check_receivers)


class _Sending:
    """Sends one notification to the receivers of its route.

    Attributes:
        events: results so far; empty if no receiver was tried.
    """

    def __init__(
        self,
        notification: Notification,
        route: Route,
        sinks: Sinks,
        clock: Callable[[], float],
    ) -> None:
        self._notification = notification
        self._route = route
        self._sinks = sinks
        self._clock = clock
        self.events: list[AlertEvent] = []

    def send(self, failures: int) -> float | None:
        """Try the receivers in order until one accepts the notification.

        Args:
            failures: number of failed attempts in a row for this group so far.

        Returns:
            When to retry, epoch seconds; None if no retry is needed.
        """
        known, title = self._sinks.settings.env.receivers, self._notification.title
        receivers = [name for name in self._route.receivers if name in known]
        if not receivers:
            variables = " or ".join(
                f"MESH_RECEIVERS__{name.upper()}" for name in self._route.receivers
            )
            reason = f"no receiver of route {self._route.name} has a URL"
            detail = f"{reason}: set {variables}"
            self._add("no receiver", "", detail)
            logger.warning('No notification "%s": %s', title, detail)
            return None
        waits = []
        for name in receivers:
            wait = self._send_to(name)
            if wait is None:
                return None
            waits.append(wait)
        wait = min(waits)
        if self.events:
            wait = max(_RETRIES.delay_seconds(failures), wait)
            if not failures:
                logger.error(
                    'No receiver of route %s took "%s"; it is tried again',
                    *(self._route.name, title),
                )
        return self._clock() + wait

    def _send_to(self, name: str) -> float | None:
        """Try one receiver, unless its circuit is open. Return the wait before the next
        try, seconds; None if it accepted the notification."""
        circuit, began = self._sinks[RECEIVER_CIRCUITS][name], self._clock()
        if circuit.state(began) is State.OPEN:
            return circuit.wait_seconds(began)
        try:
            self._sinks[NOTIFIER].send(name, self._notification)
        except (SinkUnavailable, SinkRejected) as error:
            now = self._clock()
            self._add("not sent", name, str(error))
            if isinstance(error, SinkRejected):  # it may accept other notifications
                logger.warning("Notification not sent: %s", error)
                circuit.succeeded(began, now)
                return 0.0
            asked = error.retry_after_seconds
            lasted = now - began
            before = circuit.reason
            circuit.failed(
                str(error), began, now, asked_seconds=asked, lasted_seconds=lasted
            )
            if circuit.reason != before:
                logger.warning("Notification not sent: %s", error)
            return circuit.wait_seconds(now)
        if circuit.succeeded(began, self._clock()):
            logger.warning("Receiver %s takes notifications again", name)
        self._add("sent", name, self._notification.body)
        return None

    def _add(self, kind: EventKind, who: str, detail: str) -> None:
        event = AlertEvent(self._clock(), kind, self._notification.title, who, detail)
        self.events.append(event)


def _misplaced(
    alerts: Sequence[Alert], envelopes: Sequence[Envelope], _settings: Settings
) -> Mapping[int, Dead]:
    return misplaced(alerts, envelopes)


@handles(
    "alerts.critical", record=Alert, sinks=_SINKS, timer=NOTIFYING, validate=_misplaced
)
def receive_critical(batch: Batch[Alert], sinks: Sinks) -> list[Outcome]:
    """Store and notify critical alerts."""
    return _receive(batch, sinks, lambda severity: severity == "critical")


@handles(
    "alerts.notifications",
    record=Alert,
    sinks=_SINKS,
    timer=NOTIFYING,
    validate=_misplaced,
)
def receive_others(batch: Batch[Alert], sinks: Sinks) -> list[Outcome]:
    """Store and notify all other alerts."""
    return _receive(batch, sinks, lambda severity: severity != "critical")


def _receive(
    batch: Batch[Alert], sinks: Sinks, concerns: Callable[[Severity], bool]
) -> list[Outcome]:
    outcomes: list[Outcome] = [DONE] * len(batch.records)
    dead = misplaced(batch.records, batch.envelopes)
    for index, why in dead.items():
        outcomes[index] = why
    updates = {
        index: update
        for index, update in _updates(batch)
        if concerns(update.alert.severity)
        and index not in dead
        and not batch.envelopes[index].is_quiet
    }
    if not updates:
        return outcomes
    try:
        now = sinks[ALERT_STATE].now()
        _service(sinks).receive(updates.values(), now)
        stored = {index: update.published_at for index, update in updates.items()}
        send_to_archive(batch, stored, sinks)
    except MeshError as error:
        for index in updates:
            outcomes[index] = outcome_of(error)
    return outcomes


def _updates(batch: Batch[Alert]) -> Iterator[tuple[int, AlertUpdate]]:
    """Updates of the alerts in a batch, with the indexes of their records."""
    times = map(published_at, batch.envelopes)
    for item in identified_records(batch, enumerate(times), lambda _key: True):
        name = item.id
        if item.envelope.timestamp is not None:
            # Some publishers set the same message id on every message.
            name = f"{name}@{item.envelope.timestamp:.0f}"
        yield item.index, AlertUpdate(name, batch.records[item.index], item.time)


def _receivers(settings: Settings) -> Verdict:
    urls = settings.env.receivers
    if not urls:
        text = "no receiver of alerts.yaml has a URL: nobody is notified of alerts"
        return Verdict("warning", text, "set MESH_RECEIVERS__<NAME> to an Apprise URL")
    with closing(Sinks(settings)) as sinks:
        base_urls = sinks[NOTIFIER].base_urls()
    away = unreachable(set(base_urls.values()))
    if found := [
        f"{name}: {away[url]}" for name, url in base_urls.items() if url in away
    ]:
        remedy = "start the service, or correct MESH_RECEIVERS__<NAME>"
        return Verdict("failed", "; ".join(found), remedy)
    unknown = len(urls) - len(base_urls)
    rest = f", {unknown} cannot be asked without sending" if unknown else ""
    return Verdict("ok", f"{len(base_urls)} answer{rest}")


def _doubts(settings: Settings, _handlers: Mapping[str, Handler]) -> Iterator[Doubt]:
    policy, urls = settings.read(ALERTS), settings.env.receivers
    used = {name for route in policy.routes for name in route.receivers}
    for index, name in enumerate(policy.receivers):
        key = f"receivers.{index}"
        if name not in used:
            yield Doubt("warning", ALERTS, key, f"no route has receiver {name}")
        elif name not in urls:
            text = (
                f"receiver {name} has no URL and is left out; "
                f"set MESH_RECEIVERS__{name.upper()}"
            )
            yield Doubt("note", ALERTS, key, text)


def _explain(
    _settings: Settings, _handler: Handler, routing_key: str
) -> Iterator[Detail]:
    """Labels of an alert with the routing key ``alerts.<severity>.<source>``."""
    _, severity, source = (*routing_key.split(".", 2), "", "")[:3]
    labels = {"severity": severity, "source": source}
    known = {name: value for name, value in labels.items() if value}
    yield Detail("alert", "", {}, known)


FLOW = Flow(
    "alerts",
    handlers=(receive_critical, receive_others),
    files=(ALERTS, ARCHIVE),
    sinks=(ALERT_STATE,),
    commands=COMMANDS,
    checks=lambda settings: [Check("receivers", partial(_receivers, settings))],
    doubts=_doubts,
    explain=_explain,
)
