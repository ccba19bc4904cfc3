"""What happened to alerts, for people to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EventKind = Literal[
    "firing",
    "resolved",
    "given up",
    "sent",
    "not sent",
    "no receiver",
    "acknowledged",
    "silenced",
    "silence ended",
]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        at: epoch seconds.
        kind: what.
        title: of the alert or the notification; the matchers of a silence.
        who: the fingerprint of the alert, the receiver, the user.
        detail: what came with it, such as the reason of a failure.
    """

    at: float
    kind: EventKind
    title: str
    who: str = ""
    detail: str = ""
