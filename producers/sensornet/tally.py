"""What became of the messages of devices, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from producers.sensornet.normaliser import Normalised


@dataclass(slots=True)
class Tally:
    """``received = published + dead + passed_over``.

    Attributes:
        received: messages of devices that are settled.
        published: of those, the ones that became messages of the mesh, whole.
        dead: those that are dead letters; good values of theirs are published.
        passed_over: those that hold nothing for the mesh.
        messages: exchange → messages published to it.
        skipped: reason → values, or messages without a value, that were passed over.
    """

    received: int = 0
    published: int = 0
    dead: int = 0
    passed_over: int = 0
    messages: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)

    def count(self, normalised: Normalised) -> None:
        """Count a message that is settled."""
        self.received += 1
        if normalised.dead is not None:
            self.dead += 1
        elif normalised.messages:
            self.published += 1
        else:
            self.passed_over += 1
        self.messages.update(message.exchange for message in normalised.messages)
        self.skipped.update(normalised.skipped)

    def summary(self) -> Mapping[str, Any]:
        """As one JSON object."""
        return {
            "received": self.received,
            "published": self.published,
            "dead": self.dead,
            "passed_over": self.passed_over,
            "messages": dict(self.messages),
            "skipped": dict(self.skipped.most_common()),
        }
