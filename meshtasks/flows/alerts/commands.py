"""The command ``silence_alerts``. A rerun is harmless: the id of the silence follows
from that of the call."""

from __future__ import annotations

import hashlib
import time
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from meshtasks.flows.alerts.matchers import parse_matcher
from meshtasks.flows.alerts.service import ALERT_STATE
from meshtasks.flows.alerts.state import Silence
from meshtasks.flows.command import Arguments, Command, Span
from meshtasks.flows.sinks import Sinks

_SILENCE_ID_BYTES = 4


def _matcher(text: str) -> str:
    return str(parse_matcher(text))


class SilenceAlerts(Arguments):
    """Mute some alerts for a while.

    Attributes:
        matchers: conditions that must all hold, as of ``meshtasks alerts silence``.
        lasts: how long, such as ``2h`` or ``1h30m``.
        comment: why.
        created_by: who.
    """

    matchers: Annotated[
        list[Annotated[str, AfterValidator(_matcher)]], Field(min_length=1)
    ]
    lasts: Span
    comment: str = ""
    created_by: str = "a command"


def silence_alerts(
    arguments: SilenceAlerts, sinks: Sinks, call_id: str
) -> dict[str, Any]:
    """Silence alerts, on the host of the worker that runs this.

    Raises:
        SinkUnavailable: the state of alerts is busy or cannot be written.
    """
    now = time.time()
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
        tables.begin_silence(silence, now)
    return {"silence_id": silence.id, "ends_at": silence.ends_at}


COMMANDS: tuple[Command[Any], ...] = (
    Command("silence_alerts", SilenceAlerts, silence_alerts, frozenset({"operate"})),
)
