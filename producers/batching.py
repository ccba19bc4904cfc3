"""How a producer batches, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Batching:
    """A batch is published as soon as one of these is reached.

    Attributes:
        count: messages.
        size_bytes: sum of the bodies.
        age_seconds: time since the first record that is not published yet.
        array_size: records with the same exchange and routing key that are
            packed into one message (a JSON array, at most ``size_bytes`` long);
            1 packs nothing.
    """

    count: int = 1_000
    size_bytes: int = 1024 * 1024
    age_seconds: float = 0.1
    array_size: int = 1


@dataclass(slots=True)
class Counts:
    """What became of the records, so far.

    Attributes:
        accepted: records submitted.
        restored: records that an earlier run had left unconfirmed.
        confirmed: records that the broker has stored.
        dropped: records that a full buffer dropped, or that cannot be published.
        unroutable: records that no queue was bound for.
        messages: messages confirmed.
        resent: messages that were published again, not knowing whether the
            attempt before had been stored.
    """

    accepted: int = 0
    restored: int = 0
    confirmed: int = 0
    dropped: int = 0
    unroutable: int = 0
    messages: int = 0
    resent: int = 0

    @property
    def unsettled(self) -> int:
        """Records of which none of that can be said yet."""
        settled = self.confirmed + self.dropped + self.unroutable
        return self.accepted + self.restored - settled
