"""Silences, and what people do to alerts, as the history of alerts tells it."""

from __future__ import annotations

import time

from meshtasks.flows.alerts.events import Event, EventKind
from meshtasks.flows.alerts.muting import Silence
from meshtasks.flows.alerts.tables import AlertTables


def begin(tables: AlertTables, silence: Silence) -> None:
    """Silence alerts from now on; the same silence again changes nothing."""
    tables.put_silence(silence)
    title = " ".join(silence.matchers)
    note(tables, "silenced", title, silence.created_by, silence.comment)


def note(
    tables: AlertTables, kind: EventKind, title: str, who: str, detail: str = ""
) -> None:
    """Put it into the history, and have the worker decide anew."""
    now = time.time()
    tables.note(Event(now, kind, title, who, detail))
    tables.wake_all(now)
