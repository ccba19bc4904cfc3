"""The entities that devices announced, by topic and by device."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import RootModel, ValidationError

from meshtasks.amqp.entities import topic_matches
from meshtasks.config.private_files import make_private_directory, replace_private
from meshtasks.errors import ConfigError
from meshtasks.producers.sensornet.discovery import Announced

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Limit of stored config topics; a house has hundreds.
MAX_TOPICS = 20_000

#: Config topic (as routing key) → its entities.
SavedAnnouncements = RootModel[dict[str, tuple[Announced, ...]]]


class Announcements:
    """The announced entities, by topic and by device.

    Args:
        known: entities of an earlier run, by config topic.

    Attributes:
        changed: whether the entities differ from those saved last.
    """

    def __init__(self, known: Mapping[str, tuple[Announced, ...]]) -> None:
        self._by_config: dict[str, tuple[Announced, ...]] = {}
        #: Pattern of routing keys → config topics and number of their entities.
        self._by_pattern: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._wildcards: set[str] = set()
        self._by_device: defaultdict[str, Counter[str]] = defaultdict(Counter)
        #: Identifier of a device → names and locations, with the number of entities.
        self._by_id: defaultdict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
        #: (device name, entity name) → number of entities.
        self._same_name: Counter[tuple[str, str]] = Counter()
        #: Device name → whether only one device has it; cleared at each change.
        self._own_names: dict[str, bool] = {}
        for config_key, entities in known.items():
            self.put(config_key, entities)
        self.changed = False

    @property
    def saved(self) -> SavedAnnouncements:
        """The entities, in the form that is saved for the next run."""
        return SavedAnnouncements(self._by_config)

    def put(self, config_key: str, entities: tuple[Announced, ...]) -> bool:
        """Set the entities of a config topic; none withdraws them.

        Returns:
            False if there are too many config topics, else true.
        """
        before = self._by_config.get(config_key, ())
        if before == entities:
            return True
        if not before and len(self._by_config) >= MAX_TOPICS:
            return False
        if before:
            self._count(config_key, self._by_config.pop(config_key), -1)
        if entities:
            self._by_config[config_key] = entities
            self._count(config_key, entities, 1)
        self.changed = True
        return True

    def at(self, routing_key: str) -> Sequence[Announced]:
        """Return the entities whose state is published with this routing key."""
        patterns = [
            routing_key,
            *(each for each in self._wildcards if topic_matches(each, routing_key)),
        ]
        return [
            self._named(config_key, entity)
            for pattern in patterns
            for config_key in self._by_pattern.get(pattern, ())
            for entity in self._by_config[config_key]
            if _pattern(entity) == pattern
        ]

    def _named(self, config_key: str, entity: Announced) -> Announced:
        """Return the entity, with a longer name if its own is not unique.

        If it names its device by an identifier only, as Home Assistant allows for all
        entities but one, it gets the name and location from the other entities.
        """
        alike = self._same_name[entity.device, entity.entity]
        if not entity.device:
            named = filter(None, map(self._by_id.get, entity.device_ids))
            device, area = next(iter(next(named, ())), ("", ""))
            known = {"device": device, "area": entity.area or area}
            entity = entity.model_copy(update=known)
            alike += self._same_name[device, entity.entity] if device else 0
        if not entity.device or alike == 1:
            return entity
        longer = f"{config_key.removesuffix('.config')}.{entity.entity}"
        return entity.model_copy(update={"entity": longer.replace(".", "_")})

    def device_name(self, entities: Iterable[Announced]) -> str:
        """Return the device name of these entities.

        It is empty if they have none, belong to several devices, or share the name with
        another device, because readings of both would be one series.
        """
        name, *others = {entity.device for entity in entities} or {""}
        if others or not name:
            return ""
        if name not in self._own_names:
            self._own_names[name] = self._is_of_one_device(name)
        return name if self._own_names[name] else ""

    def _is_of_one_device(self, name: str) -> bool:
        """Return whether identifiers link all entities with this device name."""
        apart: list[set[str]] = []
        for config_key in self._by_device.get(name, ()):
            for entity in self._by_config[config_key]:
                if entity.device == name:
                    ids = set(entity.device_ids or [config_key])
                    touching = [each for each in apart if each & ids]
                    others = [each for each in apart if not each & ids]
                    apart = [*others, ids.union(*touching)]
        return len(apart) <= 1

    def _count(
        self, config_key: str, entities: tuple[Announced, ...], change: int
    ) -> None:
        for entity in entities:
            pattern = _pattern(entity)
            _add(self._by_pattern, pattern, config_key, change)
            _add(self._by_device, entity.device, config_key, change)
            if entity.device:
                for each in entity.device_ids:
                    _add(self._by_id, each, (entity.device, entity.area), change)
            if pattern not in self._by_pattern:
                self._wildcards.discard(pattern)
            elif {"*", "#"} & set(pattern.split(".")):
                self._wildcards.add(pattern)
            named = entity.device, entity.entity
            self._same_name[named] += change
            if not self._same_name[named]:
                del self._same_name[named]
        self._own_names.clear()


def _add(
    counters: defaultdict[str, Counter[T]], key: str, counted: T, change: int
) -> None:
    """Change a count; keep no zeros."""
    counters[key][counted] += change
    if not counters[key][counted]:
        del counters[key][counted]
    if not counters[key]:
        del counters[key]


def _pattern(entity: Announced) -> str:
    """Return its topic filter as the broker translates it, for routing keys."""
    return entity.state_topic.replace("/", ".").replace("+", "*")


class AnnouncementsFile(Announcements):
    """Announcements that are kept in a file over restarts.

    Discovery messages are sent rarely (when a device or Home Assistant starts), and the
    broker delivers retained messages only to MQTT clients, not to queues.

    Args:
        path: created with its directory at the first change.

    Raises:
        ConfigError: the file is not valid, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        known = {}
        try:
            known = SavedAnnouncements.model_validate_json(path.read_bytes()).root
        except FileNotFoundError:
            pass
        except (OSError, ValidationError) as error:
            expected = (
                "what an earlier run has written; without the file, devices are called "
                "as in their topics until they announce themselves again"
            )
            raise ConfigError(str(path), "-", expected) from error
        super().__init__(known)

    def save(self) -> None:
        """Save changes. A failure is logged, and the next call tries again.

        Readings do not wait for it.
        """
        if not self.changed:
            return
        try:
            make_private_directory(self._path.parent)
            replace_private(self._path, self.saved.model_dump_json())
        except OSError as error:
            logger.error("cannot keep what devices announced: %s", error)  # noqa: TRY400 - the text says it
        else:
            self.changed = False
