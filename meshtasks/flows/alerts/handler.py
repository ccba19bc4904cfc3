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

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from meshtasks.config.settings import Settings
from meshtasks.errors import MeshError
from meshtasks.flows.alerts.config import ALERTS
from meshtasks.flows.alerts.notifying import NOTIFYING
from meshtasks.flows.alerts.service import News, take_in
from meshtasks.flows.alerts.store import ALERT_STATE
from meshtasks.flows.contract import Batch, handles
from meshtasks.flows.pipeline import identified_records, send_to_archive
from meshtasks.flows.sinks import Sinks
from meshtasks.outcome import DONE, Dead, Outcome, outcome_of
from meshtasks.records.alert import Alert, Severity, misplaced
from meshtasks.records.envelope import Envelope
from meshtasks.records.timestamps import published_at

_SINKS = (ALERT_STATE,)


def _refuses(
    alerts: Sequence[Alert], envelopes: Sequence[Envelope], _settings: Settings
) -> Mapping[int, Dead]:
    return misplaced(alerts, envelopes)


@handles(
    "alerts.critical", record=Alert, sinks=_SINKS, timer=NOTIFYING, refuses=_refuses
)
def receive_critical(batch: Batch[Alert], sinks: Sinks) -> list[Outcome]:
    """Take the critical alerts in."""
    return _receive(batch, sinks, lambda severity: severity == "critical")


@handles(
    "alerts.notifications",
    record=Alert,
    sinks=_SINKS,
    timer=NOTIFYING,
    refuses=_refuses,
)
def receive_others(batch: Batch[Alert], sinks: Sinks) -> list[Outcome]:
    """Take all other alerts in."""
    return _receive(batch, sinks, lambda severity: severity != "critical")


def _receive(
    batch: Batch[Alert], sinks: Sinks, concerns: Callable[[Severity], bool]
) -> list[Outcome]:
    outcomes: list[Outcome] = [DONE] * len(batch.records)
    dead = misplaced(batch.records, batch.envelopes)
    for place, why in dead.items():
        outcomes[place] = why
    news = {
        place: each
        for place, each in _news(batch)
        if concerns(each.alert.severity)
        and place not in dead
        and not batch.envelopes[place].is_quiet
    }
    if not news:
        return outcomes
    try:
        policy = sinks.settings.read(ALERTS)
        take_in(sinks[ALERT_STATE], policy, news.values(), time.time())
        stored = {place: each.said_at for place, each in news.items()}
        send_to_archive(batch, stored, sinks)
    except MeshError as error:
        outcomes = [
            outcome_of(error) if place in news else outcome
            for place, outcome in enumerate(outcomes)
        ]
    return outcomes


def _news(batch: Batch[Alert]) -> Iterator[tuple[int, News]]:
    """The records with their places in the batch."""
    times = map(published_at, batch.envelopes)
    for each in identified_records(batch, enumerate(times), lambda _key: True):
        name = each.id
        if each.envelope.timestamp is not None:
            # There are publishers who give every message the same id.
            name = f"{name}@{each.envelope.timestamp:.0f}"
        yield each.index, News(name, batch.records[each.index], each.time)
