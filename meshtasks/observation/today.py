"""What the state says of this day: read now and then, for all who look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import NamedTuple, Self

from meshtasks.amqp.topology import TOPOLOGY
from meshtasks.config.settings import Settings
from meshtasks.flows.alerts.config import ALERTS
from meshtasks.flows.alerts.current import CurrentAlert, current_alerts
from meshtasks.flows.alerts.service import ALERT_STATE
from meshtasks.flows.sinks import Sinks
from meshtasks.observation.headline import Line, headline
from meshtasks.observation.ledger import Ledger, aside, ledger_of, midnight
from meshtasks.observation.remembered import Remembered
from meshtasks.observation.snapshot import Snapshot
from meshtasks.observation.workers import WorkerAnswer
from meshtasks.state.database import StateLocation
from meshtasks.state.history import History
from meshtasks.state.sensor_activity import Count

_DAY = 86_400.0


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
