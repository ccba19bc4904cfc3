"""Everything that devices have announced: kept, and found by topic."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from pydantic import RootModel

from producers.sensornet.discovery import Announced

#: Config topic → the entities it announced.
Book = RootModel[dict[str, tuple[Announced, ...]]]


class Announcements:
    """The announced entities.

    Args:
        known: from an earlier run.

    Attributes:
        changed: whether :attr:`book` is not what it was when this was last false.
    """

    def __init__(self, known: Mapping[str, tuple[Announced, ...]]) -> None:
        self._by_config = dict(known)
        self.changed = False
        self._index()

    @property
    def book(self) -> Book:
        """What is to be kept for the next run."""
        return Book(self._by_config)

    def put(self, config_key: str, entities: tuple[Announced, ...]) -> None:
        """Take what a config topic announces; nothing withdraws what it had."""
        before = self._by_config.get(config_key, ())
        if before == entities:
            return
        if entities:
            self._by_config[config_key] = entities
        else:
            del self._by_config[config_key]
        self.changed = True
        self._index()

    def at(self, routing_key: str) -> Sequence[Announced]:
        """The entities whose state is published with this routing key."""
        return self._by_key.get(routing_key, ())

    def device_name(self, entities: Iterable[Announced]) -> str:
        """Name of the device of these entities; empty when it has none of its own.

        A name that several devices share is nobody's own: their readings would
        become one series.
        """
        for entity in entities:
            if entity.device and len(self._ids_by_name[entity.device]) == 1:
                return entity.device
        return ""

    def _index(self) -> None:
        by_key: dict[str, list[Announced]] = defaultdict(list)
        ids: dict[str, set[str]] = defaultdict(set)
        for config_key, entities in self._by_config.items():
            for entity in entities:
                # the broker's own translation of a topic
                by_key[entity.state_topic.replace("/", ".")].append(entity)
                ids[entity.device].add(entity.device_id or config_key)
        self._by_key, self._ids_by_name = by_key, ids
