"""Tells people: sends every notification that is due, by the clock.

A rerun is harmless: what was told is noted, and workers of one host take turns.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from meshtasks.flows.circuit import Circuit
from meshtasks.flows.sinks import SinkKey, Sinks

if TYPE_CHECKING:
    from meshtasks.flows.alerts.notifier import Notifier


import logging
import time
from collections.abc import Callable

from meshtasks.config.settings import Settings
from meshtasks.errors import SinkRejected, SinkUnavailable
from meshtasks.flows.alerts.config import ALERTS, Route
from meshtasks.flows.alerts.events import Event, EventKind
from meshtasks.flows.alerts.notice import Notification, notice_of
from meshtasks.flows.alerts.service import Job, claim, settle
from meshtasks.flows.alerts.store import ALERT_STATE
from meshtasks.flows.alerts.templates import renderer_of
from meshtasks.flows.circuit import State
from meshtasks.flows.contract import Timer
from meshtasks.timing import Backoff

logger = logging.getLogger(__name__)

#: Between attempts to tell a group whose receivers all failed, at least.
_RETRIES = Backoff(first_seconds=5.0, longest_seconds=30.0)


def _open_notifier(sinks: Sinks) -> Notifier:
    from meshtasks.flows.alerts.notifier import Notifier  # noqa: PLC0415 - loads Apprise

    return Notifier(sinks.settings.env.receivers)


def _new_circuits(_sinks: Sinks) -> defaultdict[str, Circuit]:
    return defaultdict(Circuit)


#: Sends notifications to phones and elsewhere.
NOTIFIER = SinkKey("notifier", _open_notifier)
#: Of each receiver of notifications, by its name.
RECEIVER_CIRCUITS = SinkKey("receivers", _new_circuits, outlives=True)


def notify_due(sinks: Sinks, clock: Callable[[], float] = time.time) -> None:
    """Send every notification that is due.

    Args:
        sinks: the process's sinks.
        clock: gives epoch seconds.

    Raises:
        SinkUnavailable: the store of alerts is busy or out of order.
    """
    policy, store = sinks.settings.read(ALERTS), sinks[ALERT_STATE]
    while (job := claim(store, policy, clock())) is not None:
        notification = _notification(job, sinks.settings, clock())
        route = policy.by_name[job.group.route]
        sending = _Sending(notification, route, sinks, clock)
        retry_at = sending.send(job.group.failures)
        settle(
            store,
            job,
            sending.events,
            clock(),
            retry_at=retry_at,
            tried=bool(sending.events),
        )


def _check_receivers(settings: Settings) -> None:
    """Refuse URLs that no notification can be sent to.

    Raises:
        ConfigError: one of them is none.
    """
    if settings.env.receivers:
        _ = Sinks(settings)[NOTIFIER]


def _notification(job: Job, settings: Settings, now: float) -> Notification:
    policy = settings.read(ALERTS)
    notice = notice_of(
        job.group, job.alerts, policy.flapping, policy.zone, now, repeats=job.repeats
    )
    return renderer_of(policy.templates).render(notice, job.group.tag)


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
            wait = self._send_to(name)
            if wait is None:
                return None
            waits.append(wait)
        wait = min(waits)
        if self.events:  # else none was asked
            wait = max(_RETRIES.delay_seconds(failures), wait)
            logger.error(
                'No receiver of route %s took "%s"; trying again in %.0f s',
                self._route.name,
                self._notification.title,
                wait,
            )
        return self._clock() + wait

    def _send_to(self, name: str) -> float | None:
        """Try one receiver, unless its circuit is open.

        Returns:
            How long it must be left alone, seconds; None if it took it.
        """
        circuit, began = self._sinks[RECEIVER_CIRCUITS][name], self._clock()
        if circuit.state(began) is State.OPEN:
            return circuit.wait_seconds(began)
        try:
            self._sinks[NOTIFIER].send(name, self._notification)
        except SinkUnavailable as error:
            now = self._clock()
            circuit.failed(
                str(error),
                began,
                now,
                asked_seconds=error.retry_after_seconds,
                lasted_seconds=now - began,
            )
            self._note_failure(name, error)
            return circuit.wait_seconds(now)
        except SinkRejected as error:  # of this notification: others may be taken
            circuit.succeeded(began, self._clock())
            self._note_failure(name, error)
            return 0.0
        circuit.succeeded(began, self._clock())
        self._note("sent", name, self._notification.body)
        return None

    def _note_failure(self, name: str, error: Exception) -> None:
        self._note("not sent", name, str(error))
        logger.warning("Notification not sent: %s", error)

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


NOTIFYING = Timer(run=notify_due, check=_check_receivers)
