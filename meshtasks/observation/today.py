"""What the state says of this day: read now and then, for all who look."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from typing import NamedTuple, Self

from meshtasks.amqp.topology import PENDING_TIMESERIES, TOPOLOGY
from meshtasks.config.settings import Settings
from meshtasks.flows.alerts.config import ALERTS
from meshtasks.flows.alerts.current import CurrentAlert, current_alerts
from meshtasks.flows.alerts.service import ALERT_STATE
from meshtasks.flows.sinks import Sinks
from meshtasks.observation.headline import Line, headline
from meshtasks.observation.remembered import Remembered
from meshtasks.observation.snapshot import Snapshot
from meshtasks.observation.workers import WorkerAnswer
from meshtasks.state.database import StateLocation
from meshtasks.state.history import History
from meshtasks.state.sensor_activity import Count

_DAY = 86_400.0
#: Of queues that the mesh itself fills.
_OWN = ("archive.", "alerts.", "pending.")


class Ledger(NamedTuple):
    """The records of a day, each in one column.

    Attributes:
        stored: what they ask for is done and durable.
        dead: dead letters.
        waiting: messages in queues, and readings whose points wait for the store.
    """

    stored: int
    dead: int
    waiting: int

    @property
    def total(self) -> int:
        """What came in."""
        return self.stored + self.dead + self.waiting


def midnight(now: float) -> float:
    """The beginning of this day here, epoch seconds."""
    today = datetime.fromtimestamp(now).astimezone()
    return today.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()


def aside(counts: Mapping[str, Count], snapshot: Snapshot) -> int:
    """How many readings have points that wait for the time-series store.

    Args:
        counts: of all days, by queue.
    """
    pending = [queue for queue in snapshot.queues if queue.name == PENDING_TIMESERIES]
    if not any(queue.ready or queue.unacked for queue in pending):
        return 0
    written = counts.get(PENDING_TIMESERIES, Count())
    put = sum(count.aside for count in counts.values())
    return max(put - written.done - written.dead, sum(q.ready for q in pending))


def ledger_of(
    today: Mapping[str, Count],
    waits_for_store: int,
    snapshot: Snapshot,
    handled: Collection[str],
) -> Ledger:
    """The ledger of this day.

    Args:
        today: what became of records since midnight, by queue.
        waits_for_store: see :func:`aside`.
        handled: the queues of the mesh that a handler takes.
    """
    queues = {name for name in handled if not name.startswith(_OWN)}
    done = sum(today[name].done for name in queues & today.keys())
    dead = sum(today[name].dead for name in queues & today.keys())
    late = today.get(PENDING_TIMESERIES, Count()).dead
    waiting = sum(snapshot.retry.values()) + sum(
        queue.ready + (queue.unacked or 0)
        for queue in snapshot.queues
        if queue.name in queues
    )
    # what waits for the store counts as done in the queue that it came from
    stored = max(0, done - late - waits_for_store)
    return Ledger(stored, dead + late, waiting + waits_for_store)


def ledger_sentence(ledger: Ledger) -> str:
    """``today 1,204,331 in = 1,204,300 stored + 31 dead + 0 waiting``."""
    parts: Iterable[str] = (
        f"{ledger.stored:,} stored",
        f"{ledger.dead:,} dead",
        f"{ledger.waiting:,} waiting",
    )
    return f"today {ledger.total:,} in = {' + '.join(parts)}"


class Today(NamedTuple):
    """This day, as far as it is remembered.

    Attributes:
        remembered: of the last 24 hours.
        counts: of records since midnight, by queue.
        all_counts: of all days that are kept.
        alerts: those that go on, the gravest first.
        handled: the queues of the mesh.
    """

    remembered: Remembered = Remembered()
    counts: Mapping[str, Count] = {}
    all_counts: Mapping[str, Count] = {}
    alerts: Sequence[CurrentAlert] = ()
    handled: Sequence[str] = ()

    @classmethod
    def read(cls, settings: Settings, now: float) -> Self:
        """Read it.

        Raises:
            SinkUnavailable: the state cannot be read.
        """
        with closing(History(StateLocation.of(settings.env))) as history:
            if not history.exists():
                return cls()
            counts = history.counts(midnight(now))
            all_counts = history.counts(0.0)
            remembered = Remembered.of(history, now - _DAY)
        return cls(
            remembered,
            counts,
            all_counts,
            _firing(settings, now),
            tuple(settings.read(TOPOLOGY).domain_queues),
        )

    def ledger(self, snapshot: Snapshot) -> Ledger:
        """What came in today, and what became of it."""
        waits = aside(self.all_counts, snapshot)
        return ledger_of(self.counts, waits, snapshot, self.handled)

    def headline(
        self, snapshot: Snapshot, answers: Sequence[WorkerAnswer]
    ) -> list[Line]:
        """What is not well, the gravest first; nothing if all is well."""
        return headline(
            snapshot,
            answers,
            self.remembered,
            waits_for_store=aside(self.all_counts, snapshot),
            alerts=self.alerts,
        )


def _firing(settings: Settings, now: float) -> list[CurrentAlert]:
    with closing(Sinks(settings)) as sinks:
        if not sinks[ALERT_STATE].exists():
            return []
        with sinks[ALERT_STATE].tables() as tables:
            return current_alerts(tables, settings.read(ALERTS), now, every=False)
