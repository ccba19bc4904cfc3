"""The alert record: the beginning or end of a fault."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from meshtasks.outcome import Dead, dead_of
from meshtasks.records.envelope import Envelope
from meshtasks.records.timestamps import InvalidTimestamp, epoch_seconds

#: Most labels of an alert; more than routing needs.
LABELS_LIMIT = 100

Severity = Literal["info", "warning", "critical"]


def fingerprint_of(source: str, labels: Mapping[str, str]) -> str:
    """Identity of an alert: 16 hex digits of BLAKE2b over source and labels.

    As in Alertmanager, texts and state are not part of it, so that a repeated or
    resolved alert has the same identity.
    """
    identity = json.dumps([source, sorted(labels.items())], separators=(",", ":"))
    return hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()


def _default_fingerprint(fields: dict[str, Any]) -> str:
    return fingerprint_of(fields["source"], fields["labels"])


def _few(labels: object) -> object:
    if isinstance(labels, dict) and len(labels) > LABELS_LIMIT:
        message = f"expected at most {LABELS_LIMIT} labels, found {len(labels):,}"
        raise ValueError(message)
    return labels


class Alert(BaseModel):
    """An alert; other fields are kept in the archive.

    Attributes:
        title: one line for people.
        message: what happened, for people.
        severity: how urgent it is.
        source: what raised it; dotted words.
        labels: what it is about; routing and grouping use them.
        starts_at: start, RFC 3339; not before 2000, and at most a day ahead.
        resolved: true if it has ended.
        fingerprint: its identity; default: made from source and labels.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    title: Annotated[str, Field(min_length=1)]
    message: str
    severity: Severity
    source: Annotated[str, Field(min_length=1)]
    labels: Annotated[dict[str, str], BeforeValidator(_few)] = {}
    starts_at: AwareDatetime | None = None
    resolved: bool = False
    fingerprint: Annotated[str, Field(min_length=1, max_length=255)] = Field(
        default_factory=_default_fingerprint
    )

    @property
    def event_id(self) -> str:
        """Id of this beginning or end of an alert; the same if published again."""
        start = self.starts_at.isoformat() if self.starts_at else ""
        state = "resolved" if self.resolved else "firing"
        return f"{self.fingerprint}/{start}/{state}"

    @property
    def routing_key(self) -> str:
        """``alerts.<severity>.<source>``."""
        return f"alerts.{self.severity}.{self.source}"


def misplaced(
    alerts: Iterable[Alert], envelopes: Iterable[Envelope]
) -> dict[int, Dead]:
    """The alerts with an impossible start: before 2000, or over a day after receipt.

    Args:
        envelopes: envelope of the message of each alert.

    Returns:
        The outcome of each such alert, by index.
    """
    dead: dict[int, Dead] = {}
    for index, (alert, envelope) in enumerate(zip(alerts, envelopes, strict=True)):
        if alert.starts_at is None:
            continue
        try:
            epoch_seconds(alert.starts_at, envelope.received_at, "starts_at")
        except InvalidTimestamp as error:
            dead[index] = dead_of(error)
    return dead
