"""The alerts of the state, read once for all pages, and what is changed there."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import NamedTuple

from meshtasks.config.settings import Settings
from meshtasks.flows.alerts.config import ALERTS
from meshtasks.flows.alerts.service import (
    ALERT_STATE,
    CurrentAlert,
    current_alerts,
    routes_notified,
)
from meshtasks.flows.alerts.state import AlertEvent, NotificationState, Silence
from meshtasks.flows.alerts.store import AlertTables
from meshtasks.flows.sinks import Sinks
from meshtasks.text import printable

logger = logging.getLogger(__name__)

#: What was read is shown to all pages for so long.
_FRESH_SECONDS = 2.5
_EVENTS, _ALERTS = 50, 200


class Alerts(NamedTuple):
    """The alerts at one moment.

    Attributes:
        taken_at: epoch seconds.
        shown: those that go on, and those of the last week, some of them at most.
        notified: by fingerprint, what the receivers of each route know.
        silences: those that last.
        events: what happened lately, the newest first.
    """

    taken_at: float
    shown: list[CurrentAlert]
    notified: Mapping[str, Mapping[str, NotificationState]]
    silences: list[Silence]
    events: list[AlertEvent]

    @property
    def firing(self) -> list[CurrentAlert]:
        """Those that go on."""
        return [each for each in self.shown if each.alert.firing]


class AlertsModel:
    """The alerts, for all pages."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._policy = settings.read(ALERTS)
        self._read: Alerts | None = None
        self._lock = asyncio.Lock()

    async def alerts(self) -> Alerts:
        """The alerts now.

        Raises:
            MeshError: the state cannot be read.
        """
        async with self._lock:
            known = self._read
            if known is None or time.time() > known.taken_at + _FRESH_SECONDS:
                known = self._read = await asyncio.to_thread(self._look)
            return known

    async def change(
        self, write: Callable[[AlertTables, float], None], who: str, what: str
    ) -> None:
        """Change something; all of it is done or none.

        Args:
            write: does it, given the tables and the time.
            who: for the log.
            what: was done, for the log.

        Raises:
            MeshError: the state cannot be written.
        """

        def run() -> None:
            with self._tables() as tables:
                write(tables, time.time())

        await asyncio.to_thread(run)
        logger.info("%s %s on the console", who, printable(what))
        self._read = None

    def _look(self) -> Alerts:
        now = time.time()
        with self._tables() as tables:
            shown = current_alerts(tables, self._policy, now, every=True)[:_ALERTS]
            return Alerts(
                now,
                shown,
                {
                    each.alert.fingerprint: routes_notified(
                        tables, each.alert.fingerprint
                    )
                    for each in shown
                },
                [silence for silence in tables.silences() if silence.ends_at > now],
                tables.history(_EVENTS),
            )

    @contextmanager
    def _tables(self) -> Iterator[AlertTables]:
        with (
            closing(Sinks(self._settings)) as sinks,
            sinks[ALERT_STATE].tables() as tables,
        ):
            yield tables
