"""What became of the messages of devices, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from producers.collecting import metric
from producers.sensornet.normaliser import Normalised, writable
from producers.sensornet.report import Counts

#: More names of values are not told apart: a topic may hold what anybody likes.
MOST_NAMES = 500
OTHER_NAMES = "other names"


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
        values: the same by reason and name of the value, of the first
            :data:`MOST_NAMES` names; the others count for :data:`OTHER_NAMES`.
    """

    received: int = 0
    published: int = 0
    dead: int = 0
    passed_over: int = 0
    messages: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    values: Counts = field(default_factory=Counter)

    def count(self, normalised: Normalised) -> list[tuple[str, str]]:
        """Count a message that is settled.

        Returns:
            The reasons and names of values that were not seen before.
        """
        self.received += 1
        if normalised.dead is not None:
            self.dead += 1
        elif normalised.messages:
            self.published += 1
        else:
            self.passed_over += 1
        self.messages.update(message.exchange for message in normalised.messages)
        self.skipped.update(normalised.skipped)
        new = []
        for key, count in (normalised.counted + normalised.remarks).items():
            reason, name = key
            if name and key not in self.values and len(self.values) < MOST_NAMES:
                new.append(key)
            if name:
                counted = key in self.values or key in new
                self.values[key if counted else (reason, OTHER_NAMES)] += count
        return new

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

    def metrics(self, host: str, now: float) -> Iterator[dict[str, Any]]:
        """The same as metrics of the mesh: of messages, and of each name of values
        that are passed over."""
        books = {
            "received": self.received,
            "published": self.published,
            "dead": self.dead,
            "passed_over": self.passed_over,
        }
        yield metric("sensornet", books, {"host": host}, now)
        for (reason, name), count in self.values.items():
            tags = {"host": host, "reason": reason, "value": writable(name)}
            yield metric("sensornet_passed_over", {"count": count}, tags, now)
