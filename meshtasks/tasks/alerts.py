"""The alert manager: takes alerts in, and tells people.

The exchange ``alerts`` is a fanout, so both queues get every alert. The handler of
``alerts.critical`` acts on the critical ones and that of ``alerts.notifications`` on
the rest, so each alert is told once.

Handlers only note how alerts stand, durably, and have the timer woken; whatever is
sent is sent by the timer. So reminders, group waits and quiet hours need no message
to come, a slow receiver holds up no queue, and a receiver that is down is no reason
to keep messages: the group is tried again until someone takes the notification.

A rerun is harmless: a record that comes again is known by its id.

How alerts stand is known per host. Workers of one host share it; consumed on several,
the queues would each know one half.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

from meshtasks.domain.alerting.events import Event, EventKind
from meshtasks.domain.alerting.notice import Notification, notice_of
from meshtasks.domain.alerting.policy import Route
from meshtasks.domain.alerts import Alert, Severity
from meshtasks.domain.backoff import Backoff
from meshtasks.domain.envelope import record_id
from meshtasks.domain.errors import MeshError, SinkRejected, SinkUnavailable
from meshtasks.domain.outcome import DONE, Outcome, outcome_of
from meshtasks.settings import Settings
from meshtasks.sinks import Sinks
from meshtasks.tasks.alertbook import Job, News, claim, settle, take_in
from meshtasks.tasks.effects import send_to_archive, written
from meshtasks.tasks.registry import Batch, Timer, handles

logger = logging.getLogger(__name__)

#: Between attempts to tell a group whose receivers all failed.
_RETRIES = Backoff(first_seconds=5.0, longest_seconds=300.0)


def notify_due(sinks: Sinks, clock: Callable[[], float] = time.time) -> None:
    """Send every notification that is due.

    Args:
        sinks: the process's sinks.
        clock: gives epoch seconds.

    Raises:
        Transient: the store of alerts is busy.
        SinkUnavailable: it is out of order.
    """
    policy, store = sinks.settings.alerts, sinks.alert_state
    while (job := claim(store, policy, clock())) is not None:
        notification = _notification(job, sinks.settings, clock())
        route = policy.by_name[job.group.route]
        sending = _Sending(notification, route, sinks, clock)
        retry_at = sending.send(job.group.failures)
        settle(store, job, sending.events, clock(), retry_at=retry_at)


def _check_receivers(settings: Settings) -> None:
    """Refuse URLs that no notification can be sent to.

    Raises:
        ConfigError: one of them is none.
    """
    if settings.env.receivers:
        _ = Sinks(settings).notifier


NOTIFYING = Timer(run=notify_due, check=_check_receivers)


@handles("alerts.critical", record=Alert, sinks=("alert_state",), timer=NOTIFYING)
def receive_critical(batch: Batch[Alert], sinks: Sinks) -> list[Outcome]:
    """Take the critical alerts in."""
    return _receive(batch, sinks, lambda severity: severity == "critical")


@handles("alerts.notifications", record=Alert, sinks=("alert_state",), timer=NOTIFYING)
def receive_others(batch: Batch[Alert], sinks: Sinks) -> list[Outcome]:
    """Take all other alerts in."""
    return _receive(batch, sinks, lambda severity: severity != "critical")


def _receive(
    batch: Batch[Alert], sinks: Sinks, concerns: Callable[[Severity], bool]
) -> list[Outcome]:
    outcomes: list[Outcome] = [DONE] * len(batch.records)
    news = {
        place: each for place, each in _news(batch) if concerns(each.alert.severity)
    }
    if not news:
        return outcomes
    try:
        take_in(sinks.alert_state, sinks.settings.alerts, news.values(), time.time())
        stored = [(place, each.said_at) for place, each in news.items()]
        send_to_archive(batch, stored, _to_json, sinks)
    except MeshError as error:
        outcomes = [
            outcome_of(error) if place in news else outcome
            for place, outcome in enumerate(outcomes)
        ]
    return outcomes


def _news(batch: Batch[Alert]) -> Iterator[tuple[int, News]]:
    """The records with their places in the batch."""
    times = [
        each.received_at if each.timestamp is None else each.timestamp
        for each in batch.envelopes
    ]
    for each in written(batch, enumerate(times), _to_json, lambda _key: True):
        name = record_id(each.envelope, each.json, each.twin, each.time)
        if each.envelope.timestamp is not None:
            # There are publishers who give every message the same id.
            name = f"{name}@{each.time:.0f}"
        yield each.place, News(name, batch.records[each.place], each.time)


def _to_json(alert: Alert) -> bytes:
    return alert.model_dump_json().encode()


def _notification(job: Job, settings: Settings, now: float) -> Notification:
    policy = settings.alerts
    notice = notice_of(
        job.group, job.alerts, policy.flapping, policy.zone, now, repeats=job.repeats
    )
    return settings.renderer.render(notice, job.group.tag)


class _Sending:
    """One notification on its way through the receivers of its route.

    Attributes:
        events: what happened.
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
        self.events: list[Event] = []

    def send(self, failures: int) -> float | None:
        """Try the receivers in order, until one takes it.

        Args:
            failures: attempts at this group that failed in a row before.

        Returns:
            When to try again, epoch seconds; None when that is settled.
        """
        known = self._sinks.settings.env.receivers
        receivers = [name for name in self._route.receivers if name in known]
        if not receivers:
            self._note_no_receiver()
            return None
        waits = []
        for name in receivers:
            try:
                self._sinks.notifier.send(name, self._notification)
            except (SinkUnavailable, SinkRejected) as error:
                self._note("not sent", name, str(error))
                logger.warning("Notification not sent: %s", error)
                waits.append(getattr(error, "retry_after_seconds", None) or 0.0)
            else:
                self._note("sent", name, self._notification.body)
                return None
        wait = max(_RETRIES.delay_seconds(failures), min(waits))
        logger.error(
            'No receiver of route %s took "%s"; trying again in %.0f s',
            self._route.name,
            self._notification.title,
            wait,
        )
        return self._clock() + wait

    def _note_no_receiver(self) -> None:
        variables = " or ".join(
            f"MESH_RECEIVERS__{name.upper()}" for name in self._route.receivers
        )
        detail = f"no receiver of route {self._route.name} has a URL: set {variables}"
        self._note("no receiver", "", detail)
        logger.warning('"%s" is told to nobody: %s', self._notification.title, detail)

    def _note(self, kind: EventKind, who: str, detail: str) -> None:
        event = Event(self._clock(), kind, self._notification.title, who, detail)
        self.events.append(event)
