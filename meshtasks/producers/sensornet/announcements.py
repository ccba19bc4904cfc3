"""Everything that devices have announced: kept, and found by topic."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import RootModel, ValidationError

from meshtasks.amqp.routing import topic_matches
from meshtasks.config.private_files import make_private_directory, replace_private
from meshtasks.errors import ConfigError
from meshtasks.producers.sensornet.discovery import Announced

#: Config topic → the entities it announced.
SavedAnnouncements = RootModel[dict[str, tuple[Announced, ...]]]

#: More config topics are not kept: a house has hundreds.
MAX_TOPICS = 20_000


class Announcements:
    """The announced entities; ``known`` are those of an earlier run.

    Attributes:
        changed: whether :attr:`saved` is not what it was when this was last false.
    """

    def __init__(self, known: Mapping[str, tuple[Announced, ...]]) -> None:
        self._by_config: dict[str, tuple[Announced, ...]] = {}
        #: Pattern of routing keys → config topics, with the number of their entities.
        self._by_pattern: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._wildcards: set[str] = set()
        self._by_device: defaultdict[str, Counter[str]] = defaultdict(Counter)
        #: Name of a device and of an entity → how many there are.
        self._same_name: Counter[tuple[str, str]] = Counter()
        #: Name of a device → whether it is one device's own; forgotten at each change.
        self._own_names: dict[str, bool] = {}
        self.changed = False
        for config_key, entities in known.items():
            self._add(config_key, entities)

    @property
    def saved(self) -> SavedAnnouncements:
        """What is to be kept for the next run."""
        return SavedAnnouncements(self._by_config)

    def put(self, config_key: str, entities: tuple[Announced, ...]) -> bool:
        """Take what a config topic announces, nothing to withdraw what it had;
        whether there was room for it."""
        before = self._by_config.get(config_key, ())
        if before == entities:
            return True
        if not before and len(self._by_config) >= MAX_TOPICS:
            return False
        if before:
            self._remove(config_key)
        if entities:
            self._add(config_key, entities)
        self.changed = True
        return True

    def at(self, routing_key: str) -> Sequence[Announced]:
        """The entities whose state is published with this routing key."""
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
        """The entity; by a longer name if its device has another one of this name."""
        if not entity.device or self._same_name[entity.device, entity.entity] == 1:
            return entity
        longer = f"{config_key.removesuffix('.config')}.{entity.entity}"
        return entity.model_copy(update={"entity": longer.replace(".", "_")})

    def device_name(self, entities: Iterable[Announced]) -> str:
        """Name of the device of these entities; empty when it has none of its own,
        or they are of several devices. A name that several devices share would make
        one series of their readings."""
        names = {entity.device for entity in entities}
        if len(names) != 1:
            return ""
        (name,) = names
        if name not in self._own_names:
            self._own_names[name] = bool(name) and self._is_of_one_device(name)
        return name if self._own_names[name] else ""

    def _is_of_one_device(self, name: str) -> bool:
        """Whether all that go by a name are tied together by their identifiers."""
        apart: list[set[str]] = []
        for config_key in self._by_device.get(name, ()):
            for entity in self._by_config[config_key]:
                if entity.device == name:
                    ids = set(entity.device_ids or [config_key])
                    apart, touching = (
                        [each for each in apart if not each & ids],
                        [each for each in apart if each & ids],
                    )
                    apart.append(ids.union(*touching))
        return len(apart) <= 1

    def _add(self, config_key: str, entities: tuple[Announced, ...]) -> None:
        self._by_config[config_key] = entities
        self._count(config_key, entities, 1)

    def _remove(self, config_key: str) -> None:
        self._count(config_key, self._by_config.pop(config_key), -1)

    def _count(
        self, config_key: str, entities: tuple[Announced, ...], change: int
    ) -> None:
        for entity in entities:
            pattern = _pattern(entity)
            for counters, key in (
                (self._by_pattern, pattern),
                (self._by_device, entity.device),
            ):
                counters[key][config_key] += change
                if not counters[key][config_key]:
                    del counters[key][config_key]
                if not counters[key]:
                    del counters[key]
            if pattern not in self._by_pattern:
                self._wildcards.discard(pattern)
            elif {"*", "#"} & set(pattern.split(".")):
                self._wildcards.add(pattern)
            named = entity.device, entity.entity
            self._same_name[named] += change
            if not self._same_name[named]:
                del self._same_name[named]
        self._own_names.clear()


def _pattern(entity: Announced) -> str:
    """Its topic filter for routing keys, as the broker translates it."""
    return entity.state_topic.replace("/", ".").replace("+", "*")


logger = logging.getLogger(__name__)


class AnnouncementsFile:
    """What devices announced, kept from one run to the next.

    Discovery messages are sent seldom (when a device or Home Assistant starts), and the
    broker hands retained ones to MQTT clients only, not to a queue.

    Args:
        path: made at the first change, with its directory.

    Raises:
        ConfigError: it holds something else.

    Attributes:
        announcements: what it held; to be added to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.announcements = Announcements(_read(path).root)

    def save(self) -> None:
        """Write what is new. A disk that is full is logged, and tried again with the
        next change: readings need not wait for it."""
        if not self.announcements.changed:
            return
        try:
            make_private_directory(self._path.parent)
            replace_private(self._path, self.announcements.saved.model_dump_json())
        except OSError as error:
            logger.error("cannot keep what devices announced: %s", error)  # noqa: TRY400 - the text says it
        else:
            self.announcements.changed = False


def _read(path: Path) -> SavedAnnouncements:
    try:
        return SavedAnnouncements.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return SavedAnnouncements({})
    except (OSError, ValidationError) as error:
        expected = (
            "what an earlier run has written; without the file, devices are called "
            "as in their topics until they announce themselves again"
        )
        raise ConfigError(str(path), "-", expected) from error
